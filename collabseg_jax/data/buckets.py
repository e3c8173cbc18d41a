"""Prepared copies in a bucket: each host fetches one to its own disk, once.

Records are read in random order and in small pieces, by a library that reads local files only.
"""

import os
import shutil
from pathlib import Path

from collabseg_jax.data import places
from collabseg_jax.data.progress import progress
from collabseg_jax.errors import RunError

INFO = "dataset_info.json"  # sent last: a folder without it is not a copy


def local_root(data_dir: str) -> Path:
    """The folder of this machine for copies; a bucket's are in a folder named after the bucket."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR", "")
    if not places.is_bucket(root):
        return Path(root or "~/tensorflow_datasets").expanduser()
    return local_root("") / "buckets" / root.replace("://", "/")


def bucket_root(data_dir: str) -> Path | None:
    """The folder of a bucket that copies are fetched from and sent to; None without a bucket.

    Raises:
      InputError: the bucket cannot be reached.
    """
    root = data_dir or os.environ.get("TFDS_DATA_DIR", "")
    return places.resolve(root, "data.dir") if places.is_bucket(root) else None


def fetch(copy: Path, folder: Path) -> None:
    """Downloads a bucket's prepared copy to a new folder of this machine.

    Raises:
      OSError: it cannot be read, or the folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with places.reaching():
        with places.scandir(copy) as entries:
            names = [entry.name for entry in entries]
        for name in progress(names, f"fetching {copy}, files"):
            _copy_file(copy / name, folder / name)


def send(folder: Path, copy: Path) -> None:
    """Uploads a prepared copy of this machine to a bucket's folder.

    Raises:
      RunError: the bucket cannot be written.
    """
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    names.sort(key=lambda name: (name == INFO, name))
    try:
        with places.reaching():
            for name in progress(names, f"sending {copy}, files"):
                _copy_file(folder / name, copy / name)
    except OSError as error:
        raise RunError(
            f"sending {copy} failed: {error}; {folder} is whole, and --mode=prepare sends it again"
        ) from error


def _copy_file(file: Path, to: Path) -> None:
    with file.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
