"""What a run logs: scalars to metrics.jsonl and TensorBoard events, and traces of a few steps."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from clu import profiler

from collabseg_jax.errors import InputError
from collabseg_jax.run.console import console
from collabseg_jax.run.files import replace_text, writing


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


class MetricLog:
    """Scalars to `metrics.jsonl` and TensorBoard events in a workdir, from process 0 alone.

    Both are written at once, in this thread: what cannot be written is an error here and now.
    """

    def __init__(self, workdir: Any, *, start_step: int) -> None:
        """Continue after `start_step`; what was logged later is cut off.

        Raises:
          RunError: here and in `write`, if the files cannot be written.
        """
        self._lines: Any = None
        self._events: Any = None
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

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
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

    def _event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        """Close the files; whatever could not be written has been an error before."""
        for file in (self._lines, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


class Trace:
    """A profile of a few steps, in `<workdir>/profile`; TensorBoard and xprof open it."""

    def __init__(self, workdir: Any, steps: str) -> None:
        """Wait for the first of the steps.

        Args:
          workdir: of the run.
          steps: "100:105" for the steps 100 to 104; "" for none.

        Raises:
          InputError: it is neither.
        """
        self._folder, self._on = Path(workdir) / "profile", False
        first, _, end = steps.partition(":")
        if steps and not (first.isdigit() and end.isdigit() and 0 < int(first) < int(end)):
            raise InputError(f"config.log.profile is {steps!r}, expected FIRST:END like 100:105")
        self._steps = range(int(first), int(end)) if steps else range(0)

    def before(self, step: int) -> None:
        """Begin, if this is the first of the steps that is still to come."""
        if step in self._steps and not self._on:
            self._on = True
            profiler.start(str(self._folder))

    def after(self, step: int) -> None:
        """End, if this was the last of the steps."""
        if self._on and step + 1 not in self._steps:
            self.close()

    def close(self) -> None:
        """End it now, if it is under way."""
        if self._on:
            self._on = False
            profiler.stop()
            console(f"a trace of the steps is in {self._folder}")
