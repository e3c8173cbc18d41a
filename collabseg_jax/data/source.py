"""What is read from: encoded records, by their index."""

from typing import Protocol, TypedDict, TypeVar

import numpy as np

from collabseg_jax.data.spec import DatasetSpec

Size = tuple[int, int]  # (height, width) in pixels
T_co = TypeVar("T_co", covariant=True)


class Record(TypedDict):
    """An image with its label, both encoded, as files hold them; `name` is unique in its split."""

    image: bytes
    label: bytes
    name: str


class RandomAccess(Protocol[T_co]):
    """Items by their index, without the slices and methods of a list."""

    def __len__(self) -> int:
        """How many items."""
        ...

    def __getitem__(self, index: int, /) -> T_co:
        """Item `index` in 0..len - 1."""
        ...


class Source(RandomAccess[Record], Protocol):
    """Records to train on or to evaluate; cheap to pickle and safe to read from threads.

    `Records` reads a prepared copy, `InMemory` holds a list, `Joined` and `Subset` are made of
    others.
    """

    @property
    def names(self) -> list[str]:
        """The name of every record, in order."""
        ...

    @property
    def image_sizes(self) -> list[Size]:
        """The (height, width) of every image, in order, from the headers."""
        ...

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """How many pixels of each class each label has, int32 [N, K]; ignored pixels not counted.

        Raises:
          InputError: a label cannot be decoded.
        """
        ...
