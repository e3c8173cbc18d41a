"""Several processes as one run: start, agree, notice who died; and the wish to stop.

Every process runs the same program on its own devices. One that fails ends itself at once, and the
others end when they notice.
"""

import os
import signal
import stat
import subprocess
import sys
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from collabseg_jax.errors import InputError, RunError

# Status codes of absl with which a collective ends whose other end is gone.
LOST = (
    *("UNKNOWN", "UNAVAILABLE", "ABORTED", "CANCELLED"),
    *("DEADLINE_EXCEEDED", "INTERNAL", "FAILED_PRECONDITION"),
)
SILENCE_S = 25  # without a sign of life for so long, a process counts as lost


def start(coordinator_address: str, num_processes: int = 0, process_id: int = -1) -> None:
    """Join the run's other processes; must come before anything touches a device.

    Args:
      coordinator_address: "" for a single process, "auto" for what JAX finds in the environment
        of a cluster (TPU pod, Slurm, ...), or host:port of process 0.
      num_processes: with host:port.
      process_id: with host:port.

    Raises:
      InputError: arguments that do not go together.
      RunError: the others could not be reached.
    """
    explicit = num_processes > 0 or process_id >= 0
    if coordinator_address in ("", "auto"):
        if explicit:
            raise InputError(
                f"--num_processes={num_processes} and --process_id={process_id} belong to "
                f"--coordinator_address=HOST:PORT, found {coordinator_address!r}"
            )
        if not coordinator_address:
            return
        place: dict[str, Any] = {}
    else:
        if not 0 <= process_id < num_processes or ":" not in coordinator_address:
            raise InputError(
                f"--coordinator_address={coordinator_address} --num_processes={num_processes} "
                f"--process_id={process_id}: expected HOST:PORT and 0 <= process_id < num_processes"
            )
        place = {
            "coordinator_address": coordinator_address,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",  # else Slurm's takes part all the same
        }
    global _last_words
    _last_words = _LastWords(f"error: {lost('this process was killed, or ended by JAX')}")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is `StopSignal`'s
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE_S, **place)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"--coordinator_address={coordinator_address}: could not join the other processes: "
            f"{str(error).splitlines()[0]}"
        ) from error


def require_devices() -> None:
    """InputError if JAX_PLATFORMS names devices that JAX does not find; else this finds them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if not platforms:
        return
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # JAX's own, by platform
        reason = (str(error).splitlines() or ["no reason was given"])[0]
        raise InputError(
            f"JAX_PLATFORMS={platforms}: JAX finds no such device here ({reason}); expected one, "
            "and JAX's build for it (as pip install 'jax[cuda13]'), or JAX_PLATFORMS=cpu"
        ) from error


def is_joined() -> bool:
    """Whether this process is one of several that were started as one run."""
    return _last_words is not None


def finish() -> None:
    """Leave in good order: wait for the others, who may still be saving."""
    if _last_words is not None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process is done, and saved
        jax.distributed.shutdown()
        _last_words.not_needed()


def abandon(code: int) -> None:
    """End this process now, without waiting for the others; does nothing in a single process."""
    if _last_words is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        _last_words.not_needed()
        os._exit(code)  # an ordinary exit would wait at a barrier that the others never reach


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. All must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def from_first(value: int) -> int:
    """Process 0's value (int32), in all. All must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


class StopSignal:
    """While entered, SIGTERM and SIGHUP only set a flag, which the loop reads between two steps.

    A cluster sends SIGTERM before it takes a machine away; a terminal SIGHUP when it is closed.
    """

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self._asked = False

    def __enter__(self) -> "StopSignal":
        """Take both over; only the main thread can. Under nohup, SIGHUP stays ignored."""
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self._asked = True
        if number == signal.SIGHUP:
            _leave_terminal()

    def asked(self) -> bool:
        """Whether any process was asked to stop; all must call it at the same step."""
        return any_process(self._asked)


def _leave_terminal() -> None:
    """From now on what would go to a terminal goes nowhere: to print there would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _LastWords:
    """Says a line in this process's place if it ends without one.

    JAX ends a process with a stack trace when the others are gone, and a killed one says nothing;
    so a child waits for either, and prints a line that a person understands.
    """

    CODE = """
import signal, sys
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if sys.stdin.read() != "goodbye":
    print(sys.argv[1], file=sys.stderr)
"""

    def __init__(self, line: str) -> None:
        command = [sys.executable, "-c", self.CODE, line]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def not_needed(self) -> None:
        """This process has said what it had to say."""
        self._child.communicate("goodbye")


_last_words: _LastWords | None = None


def line_of_lost(error: Exception) -> str | None:
    """The line for an error that says that another process is gone; None for any other error."""
    status = str(error).partition(":")[0]
    if isinstance(error, jax.errors.JaxRuntimeError) and status in LOST:
        return lost(str(error).splitlines()[0])
    return None


def lost(reason: str) -> str:
    """The line for a run that lost a process."""
    return (
        f"this run lost one of its processes ({reason}); what is above, or another process's "
        "output, may say why. The same command continues after the last checkpoint"
    )
