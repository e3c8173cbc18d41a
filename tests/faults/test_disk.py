"""Disks that are full or read-only: they end the run with one line."""

import os
import subprocess
import sys

import pytest

from tests import processes, quick
from tests.faults.runs import make_config


def on_small_disk(tmp_path, data_dir, size, before="true", **overrides):
    """A run whose workdir has a disk of its own; what it said, its exit code, what is there."""
    if not processes.can_mount(tmp_path):
        pytest.skip("needs Linux and the right to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    flags = processes.flags_of(make_config(data_dir, **overrides))
    run = [sys.executable, "-m", "tests.run_tiny", f"--workdir={disk}/run", *flags]
    after = f"cd {disk}; find run/checkpoints -maxdepth 1 -mindepth 1; ls run"
    script = f'{before} && "$@"; code=$?; {after}; exit $code'
    command = processes.mounted(disk, f"size={size}", ["sh", "-c", script, "sh", *run])
    environment = os.environ | {"XLA_FLAGS": quick.xla_flags(1), "DISK": str(disk)}
    done = subprocess.run(
        command, cwd=processes.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.stderr, done.returncode, done.stdout


def test_a_full_disk_ends_the_run_with_one_line(data_dir, tmp_path):
    """A few checkpoints fit, so the first is whole when a later one fails."""
    said, code, left = on_small_disk(
        tmp_path, data_dir, "400k", steps=400, **{"checkpoint.keep": 400}
    )
    assert code == 1, said
    [line] = [line for line in said.splitlines() if line.startswith("error:")]
    assert "Traceback" not in said
    # The system's word, or tensorstore's, whichever file it is that no longer fits.
    words = ("No space left on device", "ENOSPC", "[Errno 28]", "RESOURCE_EXHAUSTED: Error writing")
    assert any(word in line for word in words)
    assert "run/checkpoints/4\n" in left


def test_a_read_only_disk(data_dir, tmp_path):
    before = 'mkdir -p "$DISK/run" && mount -o remount,ro "$DISK"'
    said, code, _ = on_small_disk(tmp_path, data_dir, "10m", before)
    assert code == 1
    [line] = [line for line in said.splitlines() if line.startswith("error:")]
    assert "run/lock: cannot be written: Read-only file system" in line
    assert "Traceback" not in said


def test_checkpoints_on_a_read_only_disk(data_dir, tmp_path):
    """All else can be written, so it is the first save that fails."""
    place = '"$DISK/run/checkpoints"'
    before = f"mkdir -p {place} && mount -t tmpfs -o ro none {place}"
    said, code, _ = on_small_disk(tmp_path, data_dir, "10m", before)
    assert code == 1, said
    [line] = [line for line in said.splitlines() if line.startswith("error:")]
    assert "run/checkpoints: a checkpoint could not be saved: " in line
    assert "Read-only file system" in line
    assert "The last good one: none" in line
    assert "Traceback" not in said
