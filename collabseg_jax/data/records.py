"""The records of a prepared copy, and what is kept beside them."""

import functools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data import counts, decode
from collabseg_jax.data.progress import progress
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError


class Records:
    """Random access to a split's encoded records; cheap to pickle, safe to read from threads."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
        """Opens one split of a prepared builder."""
        skip = tfds.decode.SkipDecoding()
        self._source = builder.as_data_source(split, decoders={"image": skip, "label": skip})
        self._folder, self._split = Path(builder.data_dir), split

    def __len__(self) -> int:
        """How many records."""
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        """Record `index` in 0..len - 1: {"image": bytes, "label": bytes, "name": str}.

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
        return {**record, "name": record["name"].decode()}

    @functools.cached_property
    def image_sizes(self) -> list[tuple[int, int]]:
        """The (height, width) of every image, in order, from the headers."""
        records = (self[i] for i in range(len(self)))
        return [decode.image_size(record["image"], record["name"]) for record in records]

    @functools.cached_property
    def names(self) -> list[str]:
        """The name of every record, in order; kept beside the records, for they are large."""

        def read() -> np.ndarray:
            each = progress(range(len(self)), f"reading names of {self._split}")
            return np.array([self[i]["name"] for i in each])

        path = self._folder / f"names.{self._split}.npy"
        return counts.kept(path, len(self), read).tolist()

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """As `selection.class_pixels`; counted once, and kept beside the records."""
        return counts.kept(
            self._folder / f"class_pixels.{self._split}.npy",
            len(self),
            lambda: counts.class_pixels(self, spec, f"counting classes of {self._split}"),
        )
