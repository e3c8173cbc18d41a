"""Which raw files a copy was made of: 12 hex digits that name its folder."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from collabseg_jax.data import places
from collabseg_jax.data.builders.finding import Pair

_SAMPLED_FILES = 65_536  # all of ADE20K's, in half a second
_SAMPLED_BYTES = 64


@dataclasses.dataclass(frozen=True)
class RawTree:
    """The raw files that make a data set.

    Attributes:
      root: the folder where the layout begins; names are relative to it.
      pairs: of every split.
      extra: paths in `root` of files besides images and labels.
    """

    root: Path
    pairs: Mapping[str, list[Pair]]
    extra: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all names and sizes, and of the last bytes of up to `_SAMPLED_FILES` files.

        Of the `extra` files every byte counts.
        A PNG ends in checksums of its pixels, so the end alone tells an edited label of equal size.
        Times are left out: a copy of the tree is the same tree.
        """
        wanted = ((path, i % self._every == 0) for i, (_, path) in enumerate(self._files))
        threads = places.threads_for(self.root)
        return self._digest(places.read_ahead(_end_of, wanted, threads=threads))

    def fingerprint_of(self, records: Iterable[Mapping]) -> str:
        """The same as read from a copy: equal to `fingerprint` if it holds these very files.

        Args:
          records: {"image": bytes, "label": bytes} of every pair, splits sorted by name.
        """
        files = (content for record in records for content in (record["image"], record["label"]))
        return self._digest((len(content), content[-_SAMPLED_BYTES:]) for content in files)

    @functools.cached_property
    def _files(self) -> list[tuple[str, Path]]:
        return [
            (split, path)
            for split in sorted(self.pairs)
            for pair in self.pairs[split]
            for path in (pair.image, pair.label)
        ]

    @property
    def _every(self) -> int:
        """The end of each how manyeth file counts."""
        return -(-len(self._files) // _SAMPLED_FILES)

    def _digest(self, ends: Iterable[tuple[int, bytes]]) -> str:
        """`ends` are the sizes and last bytes of all files, in order."""
        digest = hashlib.sha256()
        for i, ((split, path), (size, last)) in enumerate(zip(self._files, ends, strict=True)):
            digest.update(f"{split} {path.relative_to(self.root)} {size}\n".encode())
            if i % self._every == 0:
                digest.update(last)
        for name in self.extra:
            digest.update(f"{name}\n".encode() + (self.root / name).read_bytes())
        return digest.hexdigest()[:12]


def _end_of(file: tuple[Path, bool]) -> tuple[int, bytes]:
    path, wanted = file
    size = places.size(path)
    if not wanted:
        return size, b""
    with path.open("rb") as file:
        file.seek(max(0, size - _SAMPLED_BYTES))
        return size, file.read()
