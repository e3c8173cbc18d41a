"""Prepared copies: a raw tree becomes records once, and is found again by its fingerprint."""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data import counts, decode
from collabseg_jax.data.builders import base as builders
from collabseg_jax.data.builders.base import Pair, PairBuilder
from collabseg_jax.data.selection import Joined
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError

_SAMPLED_FILES = 65_536  # all of ADE20K's, in half a second
_SAMPLED_BYTES = 64


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
        """Record `index` in 0..len - 1: {"image": bytes, "label": bytes, "name": str}."""
        record = self._source[index]
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
            each = builders.progress(range(len(self)), f"reading names of {self._split}")
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


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
      spec: what its labels mean; decode them by this one and not by the table of specs.
      builder_dir: the folder that holds the records.
      fingerprint: of the raw files, or the version of a generated set.
      sizes: {split: number of records}.
    """

    spec: DatasetSpec
    builder_dir: str
    fingerprint: str
    sizes: dict[str, int]
    _builder: tfds.core.DatasetBuilder = dataclasses.field(repr=False)

    def source(self, splits: str) -> Records | Joined:
        """The records of a split, or of several in this order, as in "train+val".

        Within a split they are sorted as the builder found them.

        Raises:
          InputError: there is no such split, or one is named twice.
        """
        wanted = splits.split("+")
        for i, split in enumerate(wanted):
            if split not in self.sizes:
                of = f" (of {splits!r})" if len(wanted) > 1 else ""
                raise InputError(
                    f"data set {self.spec.name!r} has no split {split!r}{of} in "
                    f"{self.builder_dir}; it has: {', '.join(self.sizes)}"
                )
            if split in wanted[:i]:
                raise InputError(f"split {split!r} is twice in {splits!r}, expected it once")
        records = [Records(self._builder, split) for split in wanted]
        return records[0] if len(records) == 1 else Joined(records)


def find_spec(
    spec: DatasetSpec, builder_class: type[PairBuilder], *, raw_dir: str, data_dir: str
) -> DatasetSpec:
    """What the raw files say, or else the only prepared copy; `spec` is what is known without."""
    if raw_dir:
        return builder_class.find_spec(Path(raw_dir).expanduser().resolve())
    return _spec_of(_only_copy(spec, builder_class, _root(data_dir)), spec)


def open_prepared(
    spec: DatasetSpec, builder_class: type, *, raw_dir: str, data_dir: str
) -> Prepared:
    """Finds the prepared copy, or makes it; see `collabseg_jax.data.prepare`."""
    options = {"data_dir": _root(data_dir), "file_format": "array_record"}
    if issubclass(builder_class, PairBuilder):
        if raw_dir:
            raw_dir = Path(raw_dir).expanduser().resolve()
            spec, pairs = builder_class.find_spec(raw_dir), builder_class.find_pairs(raw_dir)
            root = builder_class.root(raw_dir)
            fingerprint = _fingerprint(root, pairs, builder_class.EXTRA_FILES)
        else:
            copy = _only_copy(spec, builder_class, options["data_dir"])
            spec, fingerprint = _spec_of(copy, spec), copy.parent.name
        options |= {"raw_dir": raw_dir, "spec": spec, "config": fingerprint}
    elif raw_dir:
        raise InputError(
            f"config.data.raw_dir={raw_dir}: data set {spec.name!r} is {spec.source} and takes no "
            "raw files, expected an empty raw_dir"
        )
    else:
        fingerprint = f"v{builder_class.VERSION}"
    builder = builder_class(**options)
    if not _is_prepared(builder):
        try:
            builder = _build(builder_class, options)
        except OSError as error:
            raise InputError(
                f"preparing {spec.name} in {options['data_dir']} failed: {error}; "
                "--config.data.dir=PATH names another folder"
            ) from error
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    return Prepared(spec, builder.data_dir, fingerprint, sizes, builder)


def _root(data_dir: str) -> Path:
    """Where copies are kept."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(root).expanduser()


def _build(builder_class: type, options: dict) -> tfds.core.DatasetBuilder:
    target = builder_class(**options).data_path
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(Path(target.parent) / ".lock"):
        # Another process may have done it while this one waited.
        builder = builder_class(**options)
        if _is_prepared(builder):
            return builder
        for leftover in target.parent.glob("incomplete.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        print(f"preparing {builder.name} in {target}, once", file=sys.stderr, flush=True)
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
        finally:
            tfds.enable_progress_bar()
    return builder


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # builder.is_prepared() says the same, but warns where the answer is no.
    return (builder.data_path / "dataset_info.json").exists()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go by the system too, when the process dies
        yield


def _fingerprint(raw_dir: Path, pairs: dict[str, list[Pair]], extra: tuple[str, ...] = ()) -> str:
    """12 hex digits of all names and sizes, and of the last bytes of up to `_SAMPLED_FILES` files.

    Of the `extra` files, by their paths in `raw_dir`, every byte counts.
    A PNG ends in checksums of its pixels, so the end alone tells an edited label of equal size.
    Times are left out: a copy of the tree is the same tree.
    """
    files = [
        (split, path)
        for split in sorted(pairs)
        for pair in pairs[split]
        for path in (pair.image, pair.label)
    ]
    every = -(-len(files) // _SAMPLED_FILES)
    digest = hashlib.sha256()
    for i, (split, path) in enumerate(files):
        size = path.stat().st_size
        digest.update(f"{split} {path.relative_to(raw_dir)} {size}\n".encode())
        if i % every == 0:
            with path.open("rb") as file:
                file.seek(max(0, size - _SAMPLED_BYTES))
                digest.update(file.read())
    for name in extra:
        digest.update(f"{name}\n".encode() + (raw_dir / name).read_bytes())
    return digest.hexdigest()[:12]


def _only_copy(spec: DatasetSpec, builder_class: type, root: Path) -> Path:
    """The folder of the one prepared copy under `root`, in a folder named by its fingerprint."""
    found = sorted((root / spec.name).glob(f"*/{builder_class.VERSION}/dataset_info.json"))
    copies = [path.parent for path in found if not path.parent.name.startswith("incomplete.")]
    if not copies:
        raise InputError(
            f"no prepared {spec.name} in {root}: give --config.data.raw_dir=PATH, or get the data: "
            f"{spec.source}"
        )
    if len(copies) > 1:
        listing = "; ".join(
            f"{copy} (from {_metadata(copy).get('raw_dir', 'unknown')})" for copy in copies
        )
        raise InputError(
            f"{len(copies)} prepared copies of {spec.name}, expected one: give "
            f"--config.data.raw_dir=PATH to choose. Found: {listing}"
        )
    return copies[0]


def _spec_of(copy: Path, spec: DatasetSpec) -> DatasetSpec:
    """The spec that lies with a copy; what an earlier version did not note is that of `spec`."""
    return DatasetSpec.from_record(spec.to_record() | _metadata(copy).get("spec", {}))


def _metadata(copy: Path) -> dict:
    """What `PairBuilder` noted about a copy; nothing if that cannot be read."""
    try:
        return json.loads((copy / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}
