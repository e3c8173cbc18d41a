"""Several processes as one run: start, agree, notice who died; and the wish to stop.

Every process runs the same program on its own devices. One that fails ends itself at once, and the
others end when they notice.
"""

import contextlib
import os
import signal
import sys
import threading
import time

import jax
import numpy as np
from jax._src.distributed import global_state  # the store's client; nothing public gives it
from jax.experimental import multihost_utils

from collabseg_jax.errors import InputError, RunError

BEAT_S = 2.0  # between two signs of life
SILENCE_S = 25.0  # without one, a process counts as lost
BACKSTOP_S = 50  # JAX ends the process itself, with a stack trace


def start(coordinator_address: str, num_processes: int = 0, process_id: int = -1) -> None:
    """Join the run's other processes; must come before anything touches a device.

    Args:
      coordinator_address: "" for a single process, "auto" for what JAX finds in the environment
        of a cluster (TPU pod, Slurm, ...), or host:port of process 0.
      num_processes, process_id: with host:port.
    Raises:
      ValueError: arguments that do not go together; RunError: the others could not be reached.
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
        place = {}
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
        }
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is `StopSignal`'s
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=BACKSTOP_S, **place)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"--coordinator_address={coordinator_address}: could not join the other processes: "
            f"{str(error).splitlines()[0]}"
        ) from error
    global _watch
    _watch = _Watch(global_state.client, global_state.process_id)
    _watch.start()


def is_joined() -> bool:
    """Whether this process is one of several that were started as one run."""
    return jax.distributed.is_initialized()


def finish() -> None:
    """Leave in good order: wait for the others, who may still be saving."""
    if is_joined():
        _watch.leave()
        jax.distributed.shutdown()


def abandon(code: int) -> None:
    """End this process now, without waiting for the others; does nothing in a single process."""
    if is_joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an ordinary exit would wait at a barrier that the others never reach


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process. All must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def from_first(value: int) -> int:
    """Process 0's value, in all. All must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int64(value)))


class StopSignal:
    """While entered, SIGTERM is no end but a wish, to be asked for between two steps.

    A cluster sends it before it takes a machine away.
    """

    def __init__(self):
        """Nothing was asked for yet."""
        self._asked = False

    def __enter__(self):
        """Take over SIGTERM; only the main thread can."""
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_):
        """Give SIGTERM back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_):
        self._asked = True

    def asked(self) -> bool:
        """Whether any process was asked to stop; all must call it at the same step."""
        return any_process(self._asked)


class _Watch(threading.Thread):
    """Gives a sign of life through the coordinator's store, and watches the others'.

    JAX has heartbeats of its own, but ends the process with a stack trace that names nobody, and
    a collective with a lost process can hang for ever.
    """

    def __init__(self, client, process_id: int):
        super().__init__(name="watch", daemon=True)
        self._client, self._me = client, str(process_id)
        self._leaving = threading.Event()

    def leave(self) -> None:
        """Say goodbye, so that nobody misses this process."""
        self._leaving.set()
        self.join()

    def run(self) -> None:
        """Beat and look until `leave`."""
        beat, reached, seen = 0, time.monotonic(), {}
        while not self._leaving.wait(BEAT_S):
            beat, now = beat + 1, time.monotonic()
            try:
                self._say(str(beat))
                for key, value in self._client.key_value_dir_get("alive/"):
                    if value != seen.get(key, ("", 0.0))[0]:
                        seen[key] = (value, now)
                reached = now
            except Exception:  # whatever the store's connection raises
                pass
            silent = [k for k, (v, at) in seen.items() if v != "left" and now - at > SILENCE_S]
            if now - reached > SILENCE_S:
                silent = ["/0"]  # it holds the store
            if silent:
                process = silent[0].rpartition("/")[2]
                print(f"error: {lost(f'no sign of life of process {process}')}", file=sys.stderr)
                abandon(1)
        with contextlib.suppress(Exception):
            self._say("left")

    def _say(self, value: str) -> None:
        self._client.key_value_set(f"alive/{self._me}", value, allow_overwrite=True)


_watch: _Watch | None = None


def lost(reason: str) -> str:
    """The line for a run that lost a process."""
    return (
        f"this run lost one of its processes ({reason}); the other's own output says why. The "
        "same command continues after the last checkpoint"
    )
