"""Real processes for tests: started together as one run, watched, and ended."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from collabseg_jax.run.config import flatten
from tests import quick

ROOT = Path(__file__).parent.parent


def flags_of(config):
    """The command-line flags that turn the quickstart into `config`."""
    flat = flatten(config).items()
    flags = [f"--config.{key}={value}" for key, value in flat if value != ""]
    return [flag.replace("[", "(").replace("]", ")") for flag in flags]


def start(module, arguments, *, logs, processes=1, devices=1, environment=()):
    """Popen objects of `python -m module`; process i writes all it says to logs/i."""
    logs.mkdir(parents=True, exist_ok=True)
    place = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={processes}"]
    flags = {"XLA_FLAGS": quick.xla_flags(devices), "PYTHONPATH": str(ROOT)}
    environment = os.environ | flags | dict(environment)
    started = []
    for i in range(processes):
        mine = [*place, f"--process_id={i}"] if place else []
        with (logs / str(i)).open("w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *arguments, *mine],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def finish(started, logs, *, timeout=300, expect=0):
    """Wait for all; the exit code of each must be `expect` (None for any). What they said."""
    deadline = time.monotonic() + timeout
    try:
        for process in started:
            process.wait(max(0.1, deadline - time.monotonic()))
    finally:
        for process in started:
            process.kill()
    said = [(logs / str(i)).read_text() for i in range(len(started))]
    if expect is not None:
        codes = [process.returncode for process in started]
        assert codes == [expect] * len(started), f"{codes}\n" + "\n---\n".join(said)
    return said


def wait_for(condition, *, what, timeout=200, alive=()):
    """Until `condition()`; fails if it takes too long or one of `alive` has ended."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        assert all(process.poll() is None for process in alive), f"ended before {what}"
        time.sleep(0.02)


def mounted(folder, options, command):
    """`command` where a tmpfs of these options lies on `folder`, in a namespace of its own."""
    script = f'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
    return [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        str(folder),
        *command,
    ]


def can_mount(tmp_path):
    try:
        return subprocess.run(mounted(tmp_path, "size=1m", ["true"]), check=False).returncode == 0
    except OSError:
        return False
