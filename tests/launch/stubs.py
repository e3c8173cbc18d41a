"""Stubs in place of programs, and how the tests of the launch scripts run them."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"

FLAGS = ["--config.predict.images=a b/*.jpg", "--config.steps=3", '--config.note=it\'s "$HOME"']

# Stands in for Python: makes an environment of itself, installs nothing, and "trains" as PLAN says,
# where word i is for process i, or for the i-th run without a process id.
PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit ;;
  "-m collabseg_jax.main") ;;
  *) exit 0 ;;
esac
run=$(ls "$STUB" | grep -c '^flags')
for flag in "$@"; do
  case $flag in
    --process_id=*) run=${flag#*=} ;;
    --workdir=*) WORKDIR=${flag#*=} ;;
  esac
done
printf '%s\\n' "$@" >"$STUB/flags.$run"
echo "out $run"
echo "err $run" >&2
plan=($PLAN)
case ${plan[run]} in
  wait)
    trap 'kill $!; echo "saved $run"; exit 0' TERM
    touch "$STUB/ready.$run"
    /bin/sleep 60 & wait
    ;;
  deaf) trap '' TERM; touch "$STUB/ready.$run"; for ((i = 0; i < 600; i++)); do sleep 0.1; done ;;
  done) mkdir -p "$WORKDIR" && touch "$WORKDIR/results.json" ;;
  *) exit "${plan[run]}" ;;
esac
"""


class Stub:
    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        python = self.make("stub-python", PYTHON)
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")},
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(python),
            "STUB": str(folder),
        }
        # Never the real ones, whatever goes wrong in a test.
        for name in ("gcloud", "srun", "scontrol", "sudo", "gcsfuse"):
            self.make(name, f'#!/usr/bin/env bash\necho "{name} $*" >>"$STUB/log"\n')

    def make(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def flags(self, run):
        return (self.folder / f"flags.{run}").read_text().splitlines()

    @property
    def log(self):
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, *names):
        deadline = time.monotonic() + 15
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline, names
            time.sleep(0.02)


def run(*command, cwd, env, **more):
    env = {**env, **more}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def dry_run(*command, cwd, env, **more):
    """The words of each command that would be run."""
    result = run(*command, cwd=cwd, env=env, DRY_RUN="1", **more)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def shellcheck(*arguments, **options):
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert program, "shellcheck is missing: pip install -e '.[test]'"
    return subprocess.run(
        [program, "--shell=bash", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
