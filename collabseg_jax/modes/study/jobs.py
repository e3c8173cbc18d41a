"""Runs at work: each is a process of its own, on devices of its own."""

import collections
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from tqdm import tqdm

from collabseg_jax.errors import InputError
from collabseg_jax.modes import evaluate
from collabseg_jax.modes.study.planning import Trial
from collabseg_jax.run.console import console
from collabseg_jax.run.distributed import StopSignal
from collabseg_jax.run.files import writing

T = TypeVar("T")
# Entries of CUDA_VISIBLE_DEVICES that stand for no GPU.
NO_GPU = ("", "-1", "NoDevFiles")


def visible_gpus() -> list[str]:
    """The values for CUDA_VISIBLE_DEVICES, one GPU each; no GPU is touched to learn them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith(("cpu", "tpu")):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in names if name not in NO_GPU]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


@dataclasses.dataclass(frozen=True)
class Place:
    """The devices of one run while others work; empty where JAX is to choose.

    Attributes:
      gpus: values for CUDA_VISIBLE_DEVICES.
      cores: numbers of CPU cores.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    def __str__(self) -> str:
        """For the line that says where a run was started."""
        if self.gpus:
            return f" on GPU {','.join(self.gpus)}"
        return f" on core {','.join(map(str, self.cores))}" if self.cores else ""


def usable_cores() -> list[int]:
    """The cores this process may use; [] where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def places(jobs: int, gpus: Sequence[str], cores: Sequence[int]) -> list[Place]:
    """A place for each of the runs that work at the same time; GPUs or, without any, cores.

    Args:
      jobs: how many runs; 0 for one on each GPU, or one without GPUs.
      gpus: see `visible_gpus`.
      cores: see `usable_cores`.

    Raises:
      InputError: more runs than GPUs, each of which would want all memory of its GPU.

    Example:
      >>> [place.cores for place in places(2, gpus=[], cores=[0, 1, 2, 3])]
      [(0, 1), (2, 3)]
    """
    jobs = jobs or len(gpus) or 1
    if jobs < 0 or (gpus and jobs > len(gpus)):
        most = f" and at most {len(gpus)}, the number of GPUs" if gpus else ""
        raise InputError(f"config.jobs is {jobs}, expected at least 0{most}")
    if gpus:
        return [Place(gpus=share) for share in _shares(gpus, jobs)]
    # Two runs that each start a thread for every core hinder each other.
    return [Place(cores=share if jobs > 1 else ()) for share in _shares(cores, jobs)]


def _shares(things: Sequence[T], jobs: int) -> list[tuple[T, ...]]:
    each = len(things) // jobs
    return [tuple(things[i * each : (i + 1) * each]) for i in range(jobs)]


def work(
    todo: Sequence[Trial],
    room: Sequence[Place],
    command: Sequence[str],
    stop: StopSignal,
    report: Callable[[], None],
) -> list[str]:
    """Do the runs, one in each place at a time.

    Args:
      todo: the trials to run, in this order.
      room: the places.
      command: what a run's flags are given to.
      stop: when it is asked for, the runs at work are asked to save and no other is started.
      report: called whenever a run has finished.

    Returns:
      the names of the trials whose runs failed.
    """
    waiting, free = collections.deque(todo), list(room)
    working: list[_Process] = []
    failed, took = [], []
    try:
        while working or (waiting and not stop.asked()):
            while waiting and free and not stop.asked():
                working.append(_Process(waiting.popleft(), free.pop(0), command))
            time.sleep(0.1)
            for process in [p for p in working if p.ended()]:
                working.remove(process)
                free.append(process.place)
                line = process.outcome()
                if process.trial.finished:
                    took.append(time.monotonic() - process.since)
                    left = sum(took) / len(took) * (len(waiting) + len(working)) / len(room)
                    line += f"; {len(waiting) + len(working)} to go"
                    line += f", about {tqdm.format_interval(left)}" if left else ""
                    report()
                elif not stop.asked():
                    failed.append(str(process.trial))
                console(line)
            if stop.asked():
                for process in working:
                    process.ask_to_stop()
    finally:
        # Also after Ctrl-C, which does not reach the runs: they save, which takes a step or so.
        for process in working:
            process.ask_to_stop()
        for process in working:
            process.wait()
    return failed


class _Process:
    """A run at work."""

    def __init__(self, trial: Trial, place: Place, command: Sequence[str]) -> None:
        """Start it."""
        self.trial, self.place, self.since = trial, place, time.monotonic()
        self._log, self._asked = trial.workdir / "log.txt", False
        environment = dict(os.environ)
        if place.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
            # Or JAX trains on the CPU where it cannot use the GPU, and only the log tells.
            environment["JAX_PLATFORMS"] = environment.get("JAX_PLATFORMS") or "cuda"
        with writing(self._log):
            trial.workdir.mkdir(parents=True, exist_ok=True)
            log = self._log.open("a")
            self._begins = log.tell()  # earlier starts wrote what is before
        with log:
            log.write(shlex.join([*command, *trial.flags]) + "\n")
            log.flush()
            self._process = subprocess.Popen(
                [*command, *trial.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C would end it without a save
            )
        if place.cores:  # long before the run starts its threads, which inherit it
            os.sched_setaffinity(self._process.pid, place.cores)
        console(f"{trial}: started{place}")

    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """SIGTERM, once: the run saves and ends."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def wait(self) -> None:
        """Until it is over."""
        self._process.wait()
        console(self.outcome())

    def outcome(self) -> str:
        """One line on how it ended."""
        if self.trial.finished:
            took = tqdm.format_interval(time.monotonic() - self.since)
            return f"{self.trial}: finished in {took}, {evaluate.summary(self.trial.results())}"
        if self._asked:
            return f"{self.trial}: stopped; the same command continues it"
        code = self._process.returncode
        said = self._log.read_bytes()[self._begins :].decode(errors="replace")
        lines = said.strip().splitlines()
        # A traceback may be followed by remarks.
        last = next((x for x in reversed(lines) if re.match(r"[\w.]*[eE]rror\b", x)), lines[-1])
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"{self.trial}: failed ({how}): {last}; see {self._log}"
