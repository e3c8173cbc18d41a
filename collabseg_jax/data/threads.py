"""Threads that read and decode ahead of whoever uses the results."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import cv2

T = TypeVar("T")
U = TypeVar("U")


def reading_threads() -> int:
    """Half the cores, at least 1 and at most 4; the other half feeds the device."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(4, max(1, cores // 2))


def one_thread_per_image() -> None:
    """From here on, OpenCV starts no threads inside an image in this process.

    Called where several images are decoded at once: there, more threads only contend.
    """
    cv2.setNumThreads(0)


def read_ahead(make: Callable[[T], U], items: Iterable[T], *, threads: int) -> Iterator[U]:
    """Yields make(item) for each item in order, computed in threads ahead of the reader.

    Args:
      make: what a thread does with an item; its exception is raised when its turn comes.
      items: consumed as the reader goes on, so they may be endless.
      threads: how many; as many results wait for the reader. 0 computes each when it is asked for.
    """
    if not threads:
        yield from map(make, items)
        return
    running: collections.deque[concurrent.futures.Future[U]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    try:
        for item in items:
            running.append(pool.submit(make, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
