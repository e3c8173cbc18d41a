"""Where data is stored: a folder of the file system, or of a cloud bucket (gs://, s3://).

A bucket's folder is an `etils.epath.Path`, which has those of pathlib's methods that raw files
need; only what differs is here.
"""

import contextlib
import dataclasses
import os
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
from etils import epath

from collabseg_jax.errors import InputError

DRIVERS = {"gs": "gcsfs", "s3": "s3fs"}
_THREADS = 32  # a request is tens of milliseconds of waiting


def is_bucket(path: str | os.PathLike) -> bool:
    """Whether this is the address of a bucket, not a path of the file system."""
    return "://" in os.fspath(path)


def resolve(path: str, key: str) -> Path:
    """The folder that a config key names, absolute; it need not exist.

    Args:
      path: a path or an address.
      key: of the config, without `config.`, for a message.

    Raises:
      InputError: an address of another kind, or one that cannot be reached.
    """
    if not is_bucket(path):
        return Path(path).expanduser().resolve()
    scheme, what = path.split("://")[0], f"config.{key}={path}"
    if scheme not in DRIVERS:
        raise InputError(f"{what}: expected a folder, gs://BUCKET/PATH or s3://BUCKET/PATH")
    folder = cast(Path, epath.Path(path))
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
    """An entry of a bucket's folder, with the methods of os.DirEntry."""

    name: str
    path: str
    _is_dir: bool
    _size: int

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._is_dir

    def stat(self) -> Any:
        return types.SimpleNamespace(st_size=self._size)


@contextlib.contextmanager
def scandir(folder: Path) -> Iterator[Iterable[Any]]:
    """`os.scandir` that works for a bucket's folder too, where it is one request."""
    if not is_bucket(folder):
        with os.scandir(folder) as listed:
            yield listed
        return
    files, root = fsspec.url_to_fs(os.fspath(folder))
    entries = []
    for info in files.ls(root, detail=True):
        name = info["name"].rstrip("/").rpartition("/")[2]
        if info["name"].rstrip("/") != root.rstrip("/"):  # an object that represents the folder
            is_dir = info["type"] == "directory"
            entries.append(_Entry(name, f"{folder}/{name}", is_dir, info.get("size") or 0))
    yield entries


def size(path: Path) -> int:
    """Bytes of a file."""
    status: Any = path.stat()
    return status.length if is_bucket(path) else status.st_size


def threads_for(folder: Path) -> int:
    """How many threads should read its files; 0, only the caller's, if it is on a disk."""
    return _THREADS if is_bucket(folder) else 0


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Turns the errors of the drivers, each of which has its own, into OSErrors of one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or getattr(error, "errno", None) is not None:
            raise
        reason = " ".join(str(error).split())
        raise OSError(f"{type(error).__name__}: {reason}") from error
