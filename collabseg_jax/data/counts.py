"""How many pixels each class has in each label, and small arrays kept beside prepared records."""

import concurrent.futures
import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from collabseg_jax.data.batch import reading_threads
from collabseg_jax.data.decode import decode_label
from collabseg_jax.data.progress import progress
from collabseg_jax.data.spec import DatasetSpec


def class_pixels(
    source: Sequence[Mapping], spec: DatasetSpec, what: str = "counting classes"
) -> np.ndarray:
    """How many pixels of each class each label has, int32 [N, K], with progress on stderr.

    Raises:
      InputError: a label cannot be decoded.
    """

    def count(index: int) -> np.ndarray:
        record = source[index]
        label = decode_label(record["label"], spec, f"{spec.name} {record['name']} (label)")
        return np.bincount(label.ravel(), minlength=256)[: spec.num_classes]

    counts = np.zeros((len(source), spec.num_classes), np.int32)
    pool = concurrent.futures.ThreadPoolExecutor(reading_threads())
    try:
        found = pool.map(count, range(len(source)))
        for i in progress(range(len(source)), what):
            counts[i] = next(found)
    finally:
        pool.shutdown(cancel_futures=True)
    return counts


def kept(path: Path, length: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `path`; if none of this length can be read there, it is made and left there.

    The file is written whole or not at all; a disk that cannot be written does not matter.
    """
    with contextlib.suppress(OSError, ValueError, EOFError):
        array = np.load(path, allow_pickle=False)
        if array.shape[:1] == (length,):
            return array
    array = make()
    with contextlib.suppress(OSError):
        # A name of its own, for several processes may be at it.
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
