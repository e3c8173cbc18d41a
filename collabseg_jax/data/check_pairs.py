"""Reads a pair of files or a prepared record for a check: reports every error, not only the first.

Training reads records by `decode.decode_record`, and its first error ends the run.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from collabseg_jax.data import decode, places
from collabseg_jax.data.builders.finding import LabelledImage
from collabseg_jax.data.label_files import decode_label
from collabseg_jax.data.progress import progress
from collabseg_jax.data.source import Source
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.threads import one_thread_per_image, read_ahead
from collabseg_jax.errors import InputError

_THREADS = min(32, (os.cpu_count() or 1) + 4)  # more than cores: some of them wait for files
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A pair before it is decoded.

    Attributes:
      names: what messages call the image, the label, and the two together.
      image: the encoded image; None if it could not be read, or is empty.
      label: the encoded label; likewise.
      errors: a line for each that could not be read.
    """

    names: tuple[str, str, str]
    image: bytes | None
    label: bytes | None
    errors: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is known about a pair after it was read.

    Attributes:
      fetch: reads it again.
      names: as in `Encoded`.
      errors: a line for each thing that is wrong with it.
      size: (height, width) of the image; None if it cannot be decoded.
      digest: a hash of the image's decoded pixels; likewise.
      counts: how many pixels each train id has, int64 [256]; None if the pair cannot be used.
    """

    fetch: Callable[[], Encoded]
    names: tuple[str, str, str]
    errors: tuple[str, ...]
    size: tuple[int, int] | None
    digest: bytes | None
    counts: np.ndarray | None


def fetch_files(pair: LabelledImage, raw_dir: Path) -> Encoded:
    """Reads the two files; their names are their paths in `raw_dir`."""
    contents: list[bytes | None] = []
    errors = []
    image_name, label_name = (os.path.relpath(path, raw_dir) for path in (pair.image, pair.label))
    for path, name in ((pair.image, image_name), (pair.label, label_name)):
        content = None
        try:
            with places.reaching():
                content = path.read_bytes() or None  # `finding.files_by_stem` reports empty ones
        except OSError as error:
            errors.append(f"{name}: cannot be read: {error.strerror or error}, expected a file")
        contents.append(content)
    names = (image_name, label_name, f"{image_name} and {label_name}")
    return Encoded(names, contents[0], contents[1], tuple(errors))


def fetch_record(source: Source, split: str, index: int) -> Encoded:
    """Reads a prepared record."""
    try:
        record = source[index]
    except InputError as error:
        name = f"record {index} of {split}"
        line = f"{error}; expected a whole copy: --mode=prepare sets a damaged one aside"
        return Encoded((name, name, name), None, None, (line,))
    name = f"{split} {record['name']}"
    return Encoded((f"{name} (image)", f"{name} (label)", name), record["image"], record["label"])


def read(fetch: Callable[[], Encoded], spec: DatasetSpec) -> Reading:
    """Reads and decodes a pair; an error in one of the two does not hide one in the other."""
    encoded = fetch()
    errors = list(encoded.errors)
    image_name, label_name, both = encoded.names

    def attempt(step: Callable[..., T], data: bytes | np.ndarray | None, *args: Any) -> T | None:
        try:
            return None if data is None else step(data, *args)
        except InputError as error:
            errors.append(str(error))
            return None

    image = attempt(decode.decode_image, encoded.image, image_name)
    label = attempt(decode_label, encoded.label, spec, label_name)
    size = digest = counts = None
    if image is not None:
        size = image.shape[0], image.shape[1]
        digest = hashlib.blake2b(image.data, digest_size=16, person=b"%dx%d" % size).digest()
    if image is not None and label is not None:
        attempt(decode.check_sizes, image, label, both)
        if not errors:
            counts = np.bincount(label.ravel(), minlength=256)
    return Reading(fetch, encoded.names, tuple(errors), size, digest, counts)


def read_all(
    fetches: Sequence[Callable[[], Encoded]], spec: DatasetSpec, what: str
) -> list[Reading]:
    """Reads all, in threads (decoding releases the GIL), and shows progress as `what`."""
    one_thread_per_image()
    readings = read_ahead(functools.partial(read, spec=spec), fetches, threads=_THREADS)
    return [reading for _, reading in zip(progress(fetches, what), readings, strict=True)]


def load(reading: Reading, spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Reads again a pair that had no error.

    Returns:
      the image uint8 [H, W, 3] and the label uint8 [H, W].

    Raises:
      InputError: it has one now.
    """
    encoded = reading.fetch()
    image_name, label_name, both = encoded.names
    if encoded.image is None or encoded.label is None:
        raise InputError("; ".join(encoded.errors) or f"{both}: empty, expected two files")
    image = decode.decode_image(encoded.image, image_name)
    return image, decode_label(encoded.label, spec, label_name)
