"""Which records: several splits as one source, a share of it, or those that a list names."""

import bisect
import difflib
import functools
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from collabseg_jax.data import counts, decode
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError


class Joined:
    """Several sources, one after the other; as cheap to pickle and as safe to read as they are."""

    def __init__(self, sources: Sequence):
        """Of at least one source."""
        self._sources = list(sources)
        self._ends = list(itertools.accumulate(len(source) for source in self._sources))

    def __len__(self) -> int:
        """How many records."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping:
        """Record `index` in 0..len - 1."""
        part = bisect.bisect_right(self._ends, index)
        return self._sources[part][index - (self._ends[part - 1] if part else 0)]

    @functools.cached_property
    def names(self) -> list[str]:
        """See `names`."""
        return [name for source in self._sources for name in names(source)]

    @functools.cached_property
    def image_sizes(self) -> list[tuple[int, int]]:
        """See `image_sizes`."""
        return [size for source in self._sources for size in image_sizes(source)]

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """See `class_pixels`."""
        return np.concatenate([class_pixels(source, spec) for source in self._sources])


class Subset:
    """Some records of a source, in its order."""

    def __init__(self, source: Sequence, indices: Sequence[int]):
        """Takes the indices in `source`, rising."""
        self._source, self._indices = source, list(indices)

    def __len__(self) -> int:
        """How many records."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Mapping:
        """Record `index` in 0..len - 1."""
        return self._source[self._indices[index]]

    def __str__(self) -> str:
        """How many of how many, and 8 hex digits that stand for which."""
        digest = hashlib.sha256(np.array(self._indices, "<i8").tobytes()).hexdigest()[:8]
        return f"{len(self)} of {len(self._source)} records ({digest})"

    @functools.cached_property
    def names(self) -> list[str]:
        """See `names`."""
        return [names(self._source)[i] for i in self._indices]

    @functools.cached_property
    def image_sizes(self) -> list[tuple[int, int]]:
        """See `image_sizes`."""
        return [image_sizes(self._source)[i] for i in self._indices]

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """See `class_pixels`."""
        return class_pixels(self._source, spec)[self._indices]


def names(source: Sequence[Mapping]) -> list[str]:
    """The name of every record, in order."""
    if hasattr(source, "names"):
        return source.names
    return [source[i]["name"] for i in range(len(source))]


def image_sizes(source: Sequence[Mapping]) -> list[tuple[int, int]]:
    """The (height, width) of every image, in order, from the headers."""
    # Prepared records remember theirs, so that later evaluations do not read everything twice.
    if hasattr(source, "image_sizes"):
        return source.image_sizes
    records = (source[i] for i in range(len(source)))
    return [decode.image_size(record["image"], record["name"]) for record in records]


def class_pixels(source: Sequence[Mapping], spec: DatasetSpec) -> np.ndarray:
    """How many pixels of each class each label has, int32 [N, K]; ignored ones are in no class.

    Raises:
      InputError: a label cannot be decoded.
    """
    if hasattr(source, "class_pixels"):
        return source.class_pixels(spec)
    return counts.class_pixels(source, spec)


def choose(source: Sequence[Mapping], text: str) -> Sequence[Mapping]:
    """The part of a source that `config.data.subset` names.

    Args:
      source: of records with names.
      text: "" for all; a share in (0, 1] such as "0.125" or "1/8"; or the path of a list.

    A share takes ceil(share * N) records, those whose names have the smallest SHA-256: the same
    on every machine and for every seed, and a smaller share lies inside a larger one.

    A list is a UTF-8 text file with the name of one record a line, in any order; empty lines and
    lines that begin with # are skipped.

    Returns:
      `source` itself for "", else a `Subset` of at least one record.

    Raises:
      InputError: the share is out of range; there is no such file; the list is empty, names a
        record twice, or one that does not exist or that two of the joined splits have.
    """
    if not text:
        return source
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return Subset(source, _listed(names(source), Path(text).expanduser()))
    if not 0 < share <= 1:
        raise InputError(
            f"config.data.subset is {text}, expected a share above 0 and at most 1, or the path of "
            "a list of names"
        )
    hashed = [hashlib.sha256(name.encode()).digest() for name in names(source)]
    order = sorted(range(len(hashed)), key=lambda i: (hashed[i], i))
    return Subset(source, sorted(order[: math.ceil(share * len(order))]))


def _listed(have: list[str], path: Path) -> list[int]:
    """The indices, rising, of the names that a file lists."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(
            f"config.data.subset={path}: {reason}, expected a share in 0..1 such as 0.125, or a "
            "text file with the name of one record a line"
        ) from None
    index, twice = {}, set()
    for i, name in enumerate(have):
        if index.setdefault(name, i) != i:
            twice.add(name)
    seen = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        where = f"{path}, line {number}"
        if name not in index:
            near = difflib.get_close_matches(name, have, n=1, cutoff=0.0)
            raise InputError(
                f"{where}: no record {name!r} among the {len(have)} to train on; the nearest "
                f"name is {near[0]!r}"
            )
        if name in seen:
            raise InputError(f"{where}: {name!r} is in line {seen[name]} already, expected it once")
        if name in twice:
            raise InputError(
                f"{where}: two records are called {name!r}, expected a name of one; list names "
                "of one split (config.data.split) only"
            )
        seen[name] = number
    if not seen:
        raise InputError(f"{path}: lists no record, expected the name of one a line")
    return sorted(index[name] for name in seen)
