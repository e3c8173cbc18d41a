"""How many pixels each class has in each label, and small arrays kept next to prepared records."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from collabseg_jax.data.label_files import decode_label
from collabseg_jax.data.progress import progress
from collabseg_jax.data.source import RandomAccess, Record
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.threads import one_thread_per_image, read_ahead, reading_threads


def count_classes(
    records: RandomAccess[Record], spec: DatasetSpec, what: str = "counting classes"
) -> np.ndarray:
    """How many pixels of each class each label has, int32 [N, K], with progress on stderr.

    Args:
      records: N of them; read by their index, once each.
      spec: of the data set, with K classes.
      what: what the progress is called.

    Raises:
      InputError: a label cannot be decoded.
    """

    def count(index: int) -> np.ndarray:
        record = records[index]
        label = decode_label(record["label"], spec, f"{spec.name} {record['name']} (label)")
        return np.bincount(label.ravel(), minlength=256)[: spec.num_classes]

    counts = np.zeros((len(records), spec.num_classes), np.int32)
    one_thread_per_image()
    rows = read_ahead(count, range(len(records)), threads=reading_threads())
    for i in progress(range(len(records)), what):
        counts[i] = next(rows)
    return counts


def kept(path: Path, length: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the file `path`; if it is missing or of another length, makes and saves it.

    The file is written whole or not at all; a disk that cannot be written does not matter.

    Args:
      path: a .npy file.
      length: the first dimension of the array.
      make: computes the array.
    """
    with contextlib.suppress(OSError, ValueError, EOFError):
        array = np.load(path, allow_pickle=False)
        if array.shape[:1] == (length,):
            return array
    array = make()
    with contextlib.suppress(OSError):
        # A temporary name of its own, for several processes may write the file at once.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(handle, "wb") as file:
                np.save(file, array, allow_pickle=False)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return array
