"""A wall clock that jumps back and ahead while a run goes on."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests import processes
from tests.faults.runs import arrays, assert_same_arrays, make_config

pytestmark = pytest.mark.usefixtures("tiny_models")

JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static long calls;
static long jump(void) { /* a day back, a day ahead, ... every few readings */
  long n = __sync_fetch_and_add(&calls, 1) / 100;
  return n % 3 == 0 ? 0 : n % 3 == 1 ? -86400 : 86400;
}
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec += jump();
  return result;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


def test_a_clock_that_jumps_changes_nothing(finished, data_dir, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "clock.c").write_text(JUMPING_CLOCK)
    library = tmp_path / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"]
    subprocess.run(command, check=True)
    probe = [
        sys.executable,
        "-c",
        "import time; print({round(time.time(), -4) for _ in range(200)})",
    ]
    jumping = {"LD_PRELOAD": str(library)}
    seen = subprocess.run(probe, env=os.environ | jumping, capture_output=True, check=True).stdout
    assert seen.count(b",") >= 2  # the clock does jump

    run = tmp_path / "run"
    flags = [f"--workdir={run}", *processes.flags_of(make_config(data_dir))]
    logs = tmp_path / "logs"
    started = processes.start("tests.run_tiny", flags, logs=logs, devices=4, environment=jumping)
    processes.finish(started, logs)
    assert_same_arrays(arrays(run, data_dir), arrays(finished, data_dir))
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [8, 12]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["images_per_s"] for line in lines if "images_per_s" in line]
    assert len(speeds) == 6 and all(0 < speed < 1e5 for speed in speeds)
