"""Progress of what is read or written record by record; needs no JAX."""

import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

import tqdm

T = TypeVar("T")


def progress(items: Collection[T], what: str) -> Iterator[T]:
    """Yields the items, with a bar and an ETA on a terminal, or a line every 10 s in a file."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, desc=what, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last > 10:
            last = now
            left = (now - start) / done * (len(items) - done)
            print(f"{what}: {done}/{len(items)}, {left:.0f} s left", file=sys.stderr, flush=True)
        yield item
    seconds = time.monotonic() - start
    print(f"{what}: {len(items)} in {seconds:.1f} s", file=sys.stderr, flush=True)
