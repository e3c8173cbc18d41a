"""What a person sees of a run: progress, metrics.jsonl, TensorBoard events."""

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path

import jax
from tqdm import tqdm

from collabseg_jax.errors import RunError

LINE_EVERY_S = 30.0  # between two progress lines where there is no terminal


def console(message: str) -> None:
    """One line for the person, from process 0 alone."""
    if jax.process_index() == 0:
        tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()


class Progress:
    """A bar with ETA on a terminal; plain lines now and then elsewhere; silence off process 0."""

    def __init__(self, total: int, what: str, unit: str, *, start: int = 0):
        """Begin at `start` of `total` units."""
        self._total, self._what, self._unit, self._done = total, what, unit, start
        self._timed_from, self._since, self._said = None, time.monotonic(), time.monotonic()
        self._terminal = sys.stderr.isatty() and jax.process_index() == 0
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=what,
            unit=unit,
            disable=not self._terminal,
            leave=False,
        )

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done. The clock starts with the first: it compiles."""
        self._done += n
        if self._timed_from is None:
            self._timed_from, self._since = self._done, time.monotonic()
        if self._terminal:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n)
        elif self._done > self._timed_from and time.monotonic() - self._said > LINE_EVERY_S:
            self._said = time.monotonic()
            rate = (self._said - self._since) / (self._done - self._timed_from)
            left = tqdm.format_interval(rate * (self._total - self._done))
            console(f"{self._what}: {self._done}/{self._total} {self._unit}s, {left} left {note}")

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


class Waits:
    """Where the time of a step goes: to the next batch, and after that to the device."""

    def __init__(self):
        """Nothing has been waited for."""
        self._seconds, self._count, self._warned = {"data": 0.0, "device": 0.0}, 0, False

    @contextlib.contextmanager
    def on(self, what: str):
        """Counts the time inside as waiting on "data" or "device"; "device" ends a step."""
        began = time.monotonic()
        yield
        self._seconds[what] += time.monotonic() - began
        self._count += what == "device"

    def means(self) -> dict[str, float]:
        """{"data_s", "device_s"}, seconds a step since the last call; says once if data is late."""
        data, device = (self._seconds[what] / max(1, self._count) for what in ("data", "device"))
        if self._count > 1 and device < 0.05 * data and not self._warned:
            self._warned = True
            console(
                f"the device waits for data: a batch takes {data:.3f} s and its step ends "
                f"{device:.3f} s later; more config.data.workers may help"
            )
        self._seconds, self._count = dict.fromkeys(self._seconds, 0.0), 0
        return {"data_s": data, "device_s": device}


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of a metrics.jsonl that lie after `step`, and a line cut short by a crash."""
    if path.exists():
        kept = [entry for entry in read_log(path) if entry["step"] <= step]
        replace_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))


def read_log(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without one that was cut short by a crash; [] of no file."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries


@contextlib.contextmanager
def writing(path: Path):
    """A full or read-only disk becomes a RunError that names the file; yields the path."""
    try:
        yield path
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        temporary.write_text(text)
        os.replace(temporary, path)


class MetricLog:
    """Scalars to `metrics.jsonl` and TensorBoard events in a workdir, from process 0 alone.

    Both are written at once, in this thread: what cannot be written is an error here and now.
    """

    def __init__(self, workdir, *, start_step: int):
        """Continue after `start_step`; what was logged later is cut off.

        Raises:
          RunError: here and in `write`, if the files cannot be written.
        """
        self._lines = self._events = None
        if jax.process_index() != 0:
            return
        from tensorboardX.event_file_writer import EventsWriter  # only training needs it

        self._folder, self._path = Path(workdir), Path(workdir) / "metrics.jsonl"
        cut_back(self._path, start_step)
        with writing(self._path):
            self._lines = self._path.open("a")
        with writing(self._folder):
            # The step keeps the names of two starts in one second apart.
            self._events = EventsWriter(str(self._folder / "events"), f".{start_step}")
            self._event(start_step + 1, session_log={"status": 1})  # START: cut off

    def write(self, step: int, scalars: dict) -> None:
        """One line of JSON; a value that is not finite becomes null."""
        if self._lines is None:
            return
        scalars = {key: float(value) for key, value in scalars.items()}
        clean = {key: v if math.isfinite(v) else None for key, v in scalars.items()}
        with writing(self._path):
            self._lines.write(json.dumps({"step": step, **clean}) + "\n")
            self._lines.flush()
        values = [{"tag": key, "simple_value": value} for key, value in scalars.items()]
        with writing(self._folder):
            self._event(step, summary={"value": values})
            self._events.flush()

    def _event(self, step: int, **content) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """Close the files; whatever could not be written has been an error before."""
        for file in (self._lines, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
