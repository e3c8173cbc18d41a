"""Scalars of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import math
import time
from pathlib import Path

import jax

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
