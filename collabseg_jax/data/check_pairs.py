"""A pair of files or a prepared record, read for a check: all that is wrong with it, not the first.

What trains reads records by `decode.decode_record`, and an error ends it.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from collabseg_jax.data import decode, places
from collabseg_jax.data.builders import finding
from collabseg_jax.data.progress import progress
from collabseg_jax.data.records import Records
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A pair that is not decoded yet.

    Attributes:
      names: what messages call the image, the label, and the two together.
      image: the encoded image; None if it could not be read, or is empty and was reported so.
      label: the encoded label; the same.
      errors: a line for each that could not be read.
    """

    names: tuple[str, str, str]
    image: bytes | None
    label: bytes | None
    errors: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is known of a pair after it was read.

    Attributes:
      fetch: reads it again.
      names: as in `Encoded`.
      errors: a line for each thing that is wrong with it.
      size: (height, width) of the image; None if that cannot be decoded.
      digest: of the image's decoded pixels; the same.
      counts: pixels of each train id, int64 [256]; None if the pair cannot be used.
    """

    fetch: Callable[[], Encoded]
    names: tuple[str, str, str]
    errors: tuple[str, ...]
    size: tuple[int, int] | None
    digest: bytes | None
    counts: np.ndarray | None


def fetch_files(pair: finding.Pair, raw_dir: Path) -> Encoded:
    """Reads the two files; their names are their paths in `raw_dir`."""
    encoded, names, errors = [], [], []
    for path in (pair.image, pair.label):
        names.append(os.path.relpath(path, raw_dir))
        try:
            with places.reaching():
                content = path.read_bytes()
            encoded.append(content or None)  # `finding.files_by_stem` reports empty ones
        except OSError as error:
            encoded.append(None)
            errors.append(
                f"{names[-1]}: cannot be read: {error.strerror or error}, expected a file"
            )
    return Encoded((*names, " and ".join(names)), *encoded, tuple(errors))


def fetch_record(source: Records, split: str, index: int) -> Encoded:
    """Reads a prepared record."""
    try:
        record = source[index]
    except InputError as error:
        line = f"{error}; expected a whole copy: --mode=prepare sets a damaged one aside"
        return Encoded((f"record {index} of {split}",) * 3, None, None, (line,))
    name = f"{split} {record['name']}"
    return Encoded((f"{name} (image)", f"{name} (label)", name), record["image"], record["label"])


def read(fetch: Callable[[], Encoded], spec: DatasetSpec) -> Reading:
    """Reads and decodes a pair; an error in one of the two does not hide one in the other."""
    found = fetch()
    errors = list(found.errors)
    image_name, label_name, both = found.names

    def attempt(step: Callable, data, *args):
        try:
            return None if data is None else step(data, *args)
        except InputError as error:
            errors.append(str(error))

    image = attempt(decode.decode_image, found.image, image_name)
    label = attempt(decode.decode_label, found.label, spec, label_name)
    size = digest = counts = None
    if image is not None:
        size = image.shape[:2]
        digest = hashlib.blake2b(image, digest_size=16, person=b"%dx%d" % size).digest()
    if image is not None and label is not None:
        attempt(decode.check_sizes, image, label, both)
        if not errors:
            counts = np.bincount(label.ravel(), minlength=256)
    return Reading(fetch, found.names, tuple(errors), size, digest, counts)


def read_all(
    fetches: Sequence[Callable[[], Encoded]], spec: DatasetSpec, what: str
) -> list[Reading]:
    """Reads all, in threads (decoding lets go of the GIL), and shows progress as `what`."""
    pool = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="check")
    try:
        readings = pool.map(functools.partial(read, spec=spec), fetches)
        return [reading for _, reading in zip(progress(fetches, what), readings, strict=True)]
    finally:
        pool.shutdown(cancel_futures=True)


def load(reading: Reading, spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and label uint8 [H, W] of a pair that was read without an error."""
    found = reading.fetch()
    image, label, _ = found.names
    return decode.decode_image(found.image, image), decode.decode_label(found.label, spec, label)
