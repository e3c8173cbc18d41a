"""The two sources that hold records themselves: a prepared copy, and a list in memory."""

import functools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data.counts import count_classes, kept
from collabseg_jax.data.decode import image_size
from collabseg_jax.data.progress import progress
from collabseg_jax.data.source import RandomAccess, Record, Size
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError


class Records:
    """A split of a prepared copy, as a `Source`."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        """Opens one split of a prepared builder."""
        skip = tfds.decode.SkipDecoding()
        self._source = builder.as_data_source(split, decoders={"image": skip, "label": skip})
        self._folder, self._split = Path(builder.data_dir), split

    def __len__(self) -> int:
        """How many records."""
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Record `index` in 0..len - 1.

        Raises:
          InputError: the file is damaged there.
        """
        reason = "it is empty"  # what a file that was cut short gives, without an error
        try:
            record = self._source[index]
        except RuntimeError as error:
            record, reason = {}, " ".join(str(error).split())
        if record.get("name") is None:
            where = f"record {index} of {self._split} in {self._folder}"
            raise InputError(f"{where} cannot be read: {reason}")
        return {"image": record["image"], "label": record["label"], "name": record["name"].decode()}

    @functools.cached_property
    def image_sizes(self) -> list[Size]:
        """See `Source`; kept in memory, so that later evaluations do not read everything again."""
        return _image_sizes(self)

    @functools.cached_property
    def names(self) -> list[str]:
        """See `Source`; kept in a file next to the records, which are large."""

        def read() -> np.ndarray:
            each = progress(range(len(self)), f"reading names of {self._split}")
            return np.array([self[i]["name"] for i in each])

        path = self._folder / f"names.{self._split}.npy"
        return kept(path, len(self), read).tolist()

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """See `Source`; counted once, and kept in a file next to the records."""
        return kept(
            self._folder / f"class_pixels.{self._split}.npy",
            len(self),
            lambda: count_classes(self, spec, f"counting classes of {self._split}"),
        )


class InMemory(list[Record]):
    """A list of records, as a `Source`.

    Example:
      >>> from collabseg_jax.data import InMemory
      >>> InMemory([{"image": b"...", "label": b"...", "name": "a"}]).names
      ['a']
    """

    @property
    def names(self) -> list[str]:
        """See `Source`."""
        return [record["name"] for record in self]

    @property
    def image_sizes(self) -> list[Size]:
        """See `Source`."""
        return _image_sizes(self)

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """See `Source`."""
        return count_classes(self, spec)


def _image_sizes(records: RandomAccess[Record]) -> list[Size]:
    each = (records[i] for i in range(len(records)))
    return [image_size(record["image"], record["name"]) for record in each]
