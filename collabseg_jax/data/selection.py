"""Which records: several splits as one source, a share of it, or those that a list names."""

import bisect
import difflib
import functools
import hashlib
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from collabseg_jax.data.source import Record, Size, Source
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError


class Joined:
    """Several sources, one after the other, as a `Source`."""

    def __init__(self, sources: Sequence[Source]):
        """Takes at least one source."""
        self._sources = list(sources)
        self._ends = list(itertools.accumulate(len(source) for source in self._sources))

    def __len__(self) -> int:
        """How many records."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        """Record `index` in 0..len - 1."""
        part = bisect.bisect_right(self._ends, index)
        return self._sources[part][index - (self._ends[part - 1] if part else 0)]

    @functools.cached_property
    def names(self) -> list[str]:
        """See `Source`."""
        return [name for source in self._sources for name in source.names]

    @functools.cached_property
    def image_sizes(self) -> list[Size]:
        """See `Source`."""
        return [size for source in self._sources for size in source.image_sizes]

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """See `Source`."""
        return np.concatenate([source.class_pixels(spec) for source in self._sources])


class Subset:
    """Some records of a source, in its order, as a `Source`."""

    def __init__(self, source: Source, indices: Sequence[int]):
        """Takes the indices in `source`, in ascending order."""
        self._source, self._indices = source, list(indices)

    def __len__(self) -> int:
        """How many records."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Record `index` in 0..len - 1."""
        return self._source[self._indices[index]]

    def __str__(self) -> str:
        """How many of how many, and 8 hex digits that identify which."""
        digest = hashlib.sha256(np.array(self._indices, "<i8").tobytes()).hexdigest()[:8]
        return f"{len(self)} of {len(self._source)} records ({digest})"

    @functools.cached_property
    def names(self) -> list[str]:
        """See `Source`."""
        names = self._source.names
        return [names[i] for i in self._indices]

    @functools.cached_property
    def image_sizes(self) -> list[Size]:
        """See `Source`."""
        sizes = self._source.image_sizes
        return [sizes[i] for i in self._indices]

    def class_pixels(self, spec: DatasetSpec) -> np.ndarray:
        """See `Source`."""
        return self._source.class_pixels(spec)[self._indices]


def choose(source: Source, text: str) -> Source:
    """The part of a source that `config.data.subset` names.

    A share takes ceil(share * N) records, those whose names have the smallest SHA-256: the same
    on every machine and for every seed, and a smaller share is contained in a larger one.

    A list is a UTF-8 text file with the name of one record a line, in any order; empty lines and
    lines that begin with # are skipped.

    Args:
      source: the records, N of them.
      text: "" for all; a share in (0, 1] such as "0.125" or "1/8"; or the path of a list.

    Returns:
      `source` itself for "", else a `Subset` of at least one record.

    Raises:
      InputError: the share is out of range; there is no such file; the list is empty, names a
        record twice, or one that does not exist or that two of the joined splits have.

    Example:
      >>> from collabseg_jax import data
      >>> source = data.InMemory({"image": b"", "label": b"", "name": name} for name in "abcdefgh")
      >>> data.choose(source, "1/4").names
      ['d', 'f']
    """
    if not text:
        return source
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return Subset(source, _listed(source.names, Path(text).expanduser()))
    if not 0 < share <= 1:
        raise InputError(
            f"config.data.subset is {text}, expected a share above 0 and at most 1, or the path of "
            "a list of names"
        )
    hashed = [hashlib.sha256(name.encode()).digest() for name in source.names]
    order = sorted(range(len(hashed)), key=lambda i: (hashed[i], i))
    return Subset(source, sorted(order[: math.ceil(share * len(order))]))


def _listed(have: list[str], path: Path) -> list[int]:
    """The indices, in ascending order, of the names that a file lists."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(
            f"config.data.subset={path}: {reason}, expected a share in 0..1 such as 0.125, or a "
            "text file with the name of one record a line"
        ) from None
    index: dict[str, int] = {}
    twice = set()
    for i, name in enumerate(have):
        if index.setdefault(name, i) != i:
            twice.add(name)
    seen: dict[str, int] = {}  # the line of each name
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
