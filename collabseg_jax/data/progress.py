"""Progress of what is read or written record by record, where there may be no JAX."""

import sys
import time
from collections.abc import Collection, Iterable

import tqdm


def progress(items: Collection, what: str) -> Iterable:
    """The items, with a bar and an ETA on a terminal, with a line now and then in a file."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, desc=what, leave=False)
        return
    start = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - told > 10:
            told = now
            left = (now - start) / done * (len(items) - done)
            print(f"{what}: {done}/{len(items)}, {left:.0f} s left", file=sys.stderr, flush=True)
        yield item
    seconds = time.monotonic() - start
    print(f"{what}: {len(items)} in {seconds:.1f} s", file=sys.stderr, flush=True)
