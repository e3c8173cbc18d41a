"""The wish to stop, as a closed terminal says it."""

import os
import pty
import signal
import subprocess
import sys

import pytest

# Says when it listens, waits for the wish, and prints before it ends, as a run does.
WAITS = """
import sys, time
from pathlib import Path
from collabseg_jax.run.distributed import StopSignal
with StopSignal() as stop:
    Path(sys.argv[1], "listens").touch()
    for _ in range(600):
        if stop.asked():
            print("stopped", flush=True)
            print("saved", file=sys.stderr, flush=True)
            Path(sys.argv[1], "saved").touch()
            break
        time.sleep(0.1)
"""


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_closing_the_terminal_saves_first_but_not_under_nohup(tmp_path, ignored):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(tmp_path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL
        ),
    )
    os.close(theirs)
    try:
        wait_for(tmp_path / "listens", process)
        os.close(ours)  # what is printed from now on would be an error
        process.send_signal(signal.SIGHUP)
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        else:
            assert process.wait(60) == 0
        assert (tmp_path / "saved").exists() != ignored
    finally:
        process.kill()
        process.wait()
