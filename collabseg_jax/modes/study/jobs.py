"""Runs at work: each a process of its own, on devices of its own."""

import collections
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import time

from tqdm import tqdm

from collabseg_jax.errors import InputError
from collabseg_jax.modes import evaluate
from collabseg_jax.modes.study.planning import Run
from collabseg_jax.run.console import console
from collabseg_jax.run.files import writing

# What stands in CUDA_VISIBLE_DEVICES where there is to be none.
NO_GPU = ("", "-1", "NoDevFiles")


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES can be set to, one GPU each; found without touching them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith(("cpu", "tpu")):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in names if name not in NO_GPU]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []


@dataclasses.dataclass(frozen=True)
class Place:
    """What a run that works beside others has to itself; empty where JAX is to choose."""

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    def __str__(self):
        """For the line that says where a run was started."""
        if self.gpus:
            return f" on GPU {','.join(self.gpus)}"
        return f" on core {','.join(map(str, self.cores))}" if self.cores else ""


def usable_cores() -> list[int]:
    """The cores this process may use; [] where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def places(jobs: int, gpus: list[str], cores: list[int]) -> list[Place]:
    """A place for each of the runs that work at the same time; GPUs or, without any, cores.

    Raises:
      InputError: more runs than GPUs, each of which would want all memory of its GPU.
    """
    jobs = jobs or len(gpus) or 1
    if jobs < 0 or (gpus and jobs > len(gpus)):
        most = f" and at most {len(gpus)}, the number of GPUs" if gpus else ""
        raise InputError(f"config.jobs is {jobs}, expected at least 0{most}")
    if gpus:
        return [Place(gpus=share) for share in _shares(gpus, jobs)]
    # Two runs that each start a thread for every core hinder each other.
    return [Place(cores=share if jobs > 1 else ()) for share in _shares(cores, jobs)]


def _shares(things, jobs):
    each = len(things) // jobs
    return [tuple(things[i * each : (i + 1) * each]) for i in range(jobs)]


def work(todo, room, command, stop, report) -> list[str]:
    """Do the runs, one in each place of `room` at a time; the names of those that failed."""
    waiting, free, working = collections.deque(todo), list(room), []
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
                if process.run.finished:
                    took.append(time.monotonic() - process.since)
                    left = sum(took) / len(took) * (len(waiting) + len(working)) / len(room)
                    line += f"; {len(waiting) + len(working)} to go"
                    line += f", about {tqdm.format_interval(left)}" if left else ""
                    report()
                elif not stop.asked():
                    failed.append(str(process.run))
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

    def __init__(self, one: Run, place: Place, command):
        """Start it."""
        self.run, self.place, self.since = one, place, time.monotonic()
        self._log, self._asked = one.workdir / "log.txt", False
        environment = dict(os.environ)
        if place.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
            # Or JAX trains on the CPU where it cannot use the GPU, and only the log tells.
            environment["JAX_PLATFORMS"] = environment.get("JAX_PLATFORMS") or "cuda"
        with writing(self._log):
            one.workdir.mkdir(parents=True, exist_ok=True)
            log = self._log.open("a")
            self._begins = log.tell()  # what is before is of an earlier start
        with log:
            log.write(shlex.join([*command, *one.flags]) + "\n")
            log.flush()
            self._process = subprocess.Popen(
                [*command, *one.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C would end it without a save
            )
        if place.cores:  # long before the run starts its threads, which inherit it
            os.sched_setaffinity(self._process.pid, place.cores)
        console(f"{one}: started{place}")

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
        if self.run.finished:
            results = json.loads((self.run.workdir / "results.json").read_text())
            took = tqdm.format_interval(time.monotonic() - self.since)
            return f"{self.run}: finished in {took}, {evaluate.summary(results)}"
        if self._asked:
            return f"{self.run}: stopped; the same command continues it"
        code = self._process.returncode
        said = self._log.read_bytes()[self._begins :].decode(errors="replace")
        lines = said.strip().splitlines()
        # A traceback may be followed by remarks.
        last = next((x for x in reversed(lines) if re.match(r"[\w.]*[eE]rror\b", x)), lines[-1])
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"{self.run}: failed ({how}): {last}; see {self._log}"
