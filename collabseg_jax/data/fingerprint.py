"""Which raw files a prepared copy was made of: 12 hex digits that name its folder."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from collabseg_jax.data import places
from collabseg_jax.data.builders.finding import LabelledImage
from collabseg_jax.data.source import Record
from collabseg_jax.data.threads import read_ahead

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
    pairs: Mapping[str, Sequence[LabelledImage]]
    extra: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all names and sizes, and of the last bytes of up to `_SAMPLED_FILES` files.

        Every byte of the `extra` files counts. A PNG ends in checksums of its pixels, so its end
        shows that a label was edited, even at the same size. Times do not count: a copy of the
        tree is the same tree.
        """
        wanted = ((path, i % self._every == 0) for i, (_, path) in enumerate(self._files))
        threads = places.threads_for(self.root)
        return self._digest(read_ahead(_end_of, wanted, threads=threads))

    def fingerprint_of(self, records: Iterable[Record]) -> str:
        """The fingerprint of a prepared copy: equal to `fingerprint` if it holds these very files.

        Args:
          records: all of the copy, splits sorted by name.
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
        """The last bytes count of one file in so many."""
        return -(-len(self._files) // _SAMPLED_FILES)

    def _digest(self, ends: Iterable[tuple[int, bytes]]) -> str:
        """The hash; `ends` are the sizes and last bytes of all files, in order."""
        digest = hashlib.sha256()
        for i, ((split, path), (size, last)) in enumerate(zip(self._files, ends, strict=True)):
            digest.update(f"{split} {path.relative_to(self.root)} {size}\n".encode())
            if i % self._every == 0:
                digest.update(last)
        for name in self.extra:
            digest.update(f"{name}\n".encode() + (self.root / name).read_bytes())
        return digest.hexdigest()[:12]


def _end_of(wanted: tuple[Path, bool]) -> tuple[int, bytes]:
    """The size of a file, and its last bytes if they are wanted."""
    path, with_bytes = wanted
    with places.reaching():
        size = places.size(path)
        if not with_bytes:
            return size, b""
        with path.open("rb") as file:
            file.seek(max(0, size - _SAMPLED_BYTES))
            return size, file.read()
