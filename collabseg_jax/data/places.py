"""Where data lies: a folder of the file system, or of a cloud bucket (gs://, s3://).

A bucket's folder is an `etils.epath.Path`, which has pathlib's methods as far as raw files need
them; only what differs is here.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import fsspec
from etils import epath

from collabseg_jax.errors import InputError

DRIVERS = {"gs": "gcsfs", "s3": "s3fs"}
_THREADS = 32  # a request takes tens of milliseconds, in which nothing happens here

T, U = TypeVar("T"), TypeVar("U")


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether this is an address and no path of the file system."""
    return "://" in os.fspath(path)


def resolve(path: str, key: str) -> Path:
    """The folder that a config key names, absolute; it need not be there.

    Raises:
      InputError: an address of another kind, or one that cannot be reached.
    """
    if not is_bucket(path):
        return Path(path).expanduser().resolve()
    scheme, what = path.split("://")[0], f"config.{key}={path}"
    if scheme not in DRIVERS:
        raise InputError(f"{what}: expected a folder, gs://BUCKET/PATH or s3://BUCKET/PATH")
    folder = epath.Path(path)
    try:
        with reaching():
            folder.exists()
    except OSError as error:
        if isinstance(error.__cause__, ImportError):
            needs = f"needs {DRIVERS[scheme]}: pip install -e '.[buckets]'"
            raise InputError(f"{what}: {needs}") from None
        raise InputError(f"{what}: cannot be reached ({error})") from error
    return folder


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What os.DirEntry is to a folder."""

    name: str
    path: str
    _is_dir: bool
    _size: int

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_dir

    def stat(self):
        return types.SimpleNamespace(st_size=self._size)


@contextlib.contextmanager
def scandir(folder: Path) -> Iterator[Iterable]:
    """`os.scandir`, of a bucket's folder too; all names and sizes are one request there."""
    if not is_bucket(folder):
        with os.scandir(folder) as entries:
            yield entries
        return
    files, root = fsspec.url_to_fs(os.fspath(folder))
    found = []
    for info in files.ls(root, detail=True):
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["name"].rstrip("/") != root.rstrip("/"):  # an object that stands for the folder
            is_dir = info["type"] == "directory"
            found.append(_Entry(name, f"{folder}/{name}", is_dir, info.get("size") or 0))
    yield found


def size(path: Path) -> int:
    """Bytes of a file."""
    found = path.stat()
    return found.length if is_bucket(path) else found.st_size


def threads_for(folder: Path) -> int:
    """How many threads should read its files: 0, none but this one, where that is no waiting."""
    return _THREADS if is_bucket(folder) else 0


def read_ahead(make: Callable[[T], U], items: Iterable[T], *, threads: int) -> Iterator[U]:
    """make(item) for each item in order; as many as there are threads, ahead of the reader.

    Raises:
      OSError: in a thread, whatever a driver of buckets raises.
    """
    if not threads:
        yield from map(make, items)
        return
    running: deque = deque()
    with concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="bucket") as pool:
        try:
            for item in items:
                running.append(pool.submit(make, item))
                if len(running) > threads:
                    yield _result(running.popleft())
            while running:
                yield _result(running.popleft())
        finally:
            for future in running:
                future.cancel()


def _result(future: concurrent.futures.Future):
    with reaching():
        return future.result()


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Errors of the drivers, each of which has its own, become OSErrors of one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or getattr(error, "errno", None) is not None:
            raise
        reason = " ".join(str(error).split())
        raise OSError(f"{type(error).__name__}: {reason}") from error
