"""What a person reads while a run is at work: lines, progress, and what the time is spent on."""

import contextlib
import sys
import time
from collections.abc import Iterator

import jax
from tqdm import tqdm

LINE_EVERY_S = 30.0  # between two progress lines where there is no terminal


def console(message: str) -> None:
    """One line for the person, from process 0 alone."""
    if jax.process_index() == 0:
        tqdm.write(message, file=sys.stderr)
        sys.stderr.flush()


class Progress:
    """A bar with ETA on a terminal; plain lines now and then elsewhere; silence off process 0."""

    def __init__(self, total: int, what: str, unit: str, *, start: int = 0) -> None:
        """Begin at `start` of `total` units."""
        self._total, self._what, self._unit, self._done = total, what, unit, start
        self._timed_from: int | None = None
        self._since = self._said = time.monotonic()
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

    def __init__(self) -> None:
        """Nothing has been waited for."""
        self._seconds, self._count, self._warned = {"data": 0.0, "device": 0.0}, 0, False

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
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
