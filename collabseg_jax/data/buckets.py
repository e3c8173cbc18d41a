"""Prepared copies that live in a bucket: each host fetches one to its own disk, once.

Records are read at random, in small pieces, by a library that reads files of this machine only.
"""

import os
import shutil
from pathlib import Path

from collabseg_jax.data import places
from collabseg_jax.data.progress import progress
from collabseg_jax.errors import RunError

INFO = "dataset_info.json"  # sent last: a folder without it is not a copy


def local_root(data_dir: str) -> Path:
    """Where copies are kept on this machine; those of a bucket in a folder of the same names."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR", "")
    if not places.is_bucket(root):
        return Path(root or "~/tensorflow_datasets").expanduser()
    return local_root("") / "buckets" / root.replace("://", "/")


def bucket_root(data_dir: str) -> Path | None:
    """The bucket's folder that copies are fetched from and sent to; None if there is none.

    Raises:
      InputError: it cannot be reached.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR", "")
    return places.resolve(root, "data.dir") if places.is_bucket(root) else None


def fetch(copy: Path, folder: Path) -> None:
    """Copies the files of a bucket's copy to a new folder of this machine; OSError if it cannot."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with places.reaching():
        with places.scandir(copy) as entries:
            names = [entry.name for entry in entries]
        for name in progress(names, f"fetching {copy}, files"):
            _copy(copy / name, folder / name)


def send(folder: Path, copy: Path) -> None:
    """Copies a copy of this machine to a bucket's folder.

    Raises:
      RunError: it cannot.
    """
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    names.sort(key=lambda name: (name == INFO, name))
    try:
        with places.reaching():
            for name in progress(names, f"sending {copy}, files"):
                _copy(folder / name, copy / name)
    except OSError as error:
        raise RunError(
            f"sending {copy} failed: {error}; {folder} is whole, and --mode=prepare sends it again"
        ) from error


def _copy(file: Path, to: Path) -> None:
    with file.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
