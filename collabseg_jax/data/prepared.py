"""Prepared copies: raw files become records once; their fingerprint finds the copy again."""

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from collabseg_jax.data import buckets, places
from collabseg_jax.data.builders.base import PairBuilder, RecordBuilder
from collabseg_jax.data.existing_copies import only_copy, shared_root, spec_of
from collabseg_jax.data.fingerprint import RawTree
from collabseg_jax.data.records import Records
from collabseg_jax.data.selection import Joined
from collabseg_jax.data.source import RandomAccess, Record, Source
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.writing import FULL, read_back, write
from collabseg_jax.errors import InputError, RunError


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set.

    Attributes:
      spec: what its labels mean; decode them by this one, not by the table of specs.
      builder_dir: the folder that holds the records.
      fingerprint: of the raw files, or the version of a generated set.
      sizes: {split: number of records}.
    """

    spec: DatasetSpec
    builder_dir: str
    fingerprint: str
    sizes: dict[str, int]
    _builder: tfds.core.DatasetBuilder = dataclasses.field(repr=False)

    def source(self, splits: str) -> Source:
        """The records of a split, or of several in this order, as in "train+val".

        Within a split they have the order of the raw files that `find_pairs` returns.

        Args:
          splits: a key of `sizes`, or several with + between them.

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


def open_prepared(
    spec: DatasetSpec,
    builder_class: type[RecordBuilder],
    *,
    raw_dir: str,
    data_dir: str,
    verify: bool = False,
) -> Prepared:
    """Finds the prepared copy, or makes it; see `collabseg_jax.data.prepare`."""
    root, shared = buckets.local_root(data_dir), shared_root(data_dir)
    options: dict[str, Any] = {"data_dir": root, "file_format": "array_record"}
    tree = None
    if issubclass(builder_class, PairBuilder):
        raw: Path | str = ""
        if raw_dir:
            raw = places.resolve(raw_dir, "data.raw_dir")
            spec, pairs = builder_class.find_spec(raw), builder_class.find_pairs(raw)
            tree = RawTree(builder_class.root(raw), pairs, builder_class.EXTRA_FILES)
            fingerprint = tree.fingerprint
        else:
            copy = only_copy(spec, builder_class, shared)
            spec, fingerprint = spec_of(copy), copy.parent.name
        options |= {"raw_dir": raw, "spec": spec, "config": fingerprint}
    elif raw_dir:
        raise InputError(
            f"config.data.raw_dir={raw_dir}: data set {spec.name!r} is {spec.source} and takes no "
            "raw files, expected an empty raw_dir"
        )
    else:
        fingerprint = f"v{builder_class.VERSION}"
    builder = builder_class(**options)
    copy = shared / Path(builder.data_path).relative_to(root)
    if not _is_prepared(builder):
        builder = _obtain(builder_class, options, tree, copy)
    elif verify:
        _verify_again(builder, tree)
    if verify and not (copy / buckets.INFO).exists():
        buckets.send(Path(builder.data_path), copy)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    return Prepared(spec, builder.data_dir, fingerprint, sizes, builder)


def _obtain(
    builder_class: type[RecordBuilder], options: dict[str, Any], tree: RawTree | None, copy: Path
) -> tfds.core.DatasetBuilder:
    """Fetches a copy, or writes or continues it; verifies it; returns its builder.

    Args:
      builder_class: of the data set.
      options: of the builder.
      tree: the raw files; None if there are none.
      copy: the folder of the finished copy under `shared_root`, which may not exist.
    """
    builder = builder_class(**options)
    target = Path(builder.data_path)
    shared, there = places.is_bucket(copy), (copy / buckets.INFO).exists()
    what = f"fetching {copy}" if there else f"preparing {builder.name} in {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent / ".lock"):
            if target.exists():  # another process made it while this one waited
                return builder_class(**options)
            partial = target.with_name(f"{'fetched' if there else 'partial'}.{target.name}")
            if there:
                buckets.fetch(copy, partial)
            else:
                records, threads = _records_of(builder, tree)
                write(builder, records, partial, threads=threads)
            try:
                _verify(partial, tree)
            except InputError:
                shutil.rmtree(partial)
                raise
            partial.rename(target)
            if shared and not there:
                buckets.send(target, copy)
    except InputError as error:
        raise InputError(f"{what} failed: {error}; nothing of it is kept") from None
    except OSError as error:
        if error.errno in FULL:
            raise RunError(
                f"{what} failed: {os.strerror(error.errno)}; once there is room, the same command "
                "continues where it ended, or --config.data.dir=PATH names another folder"
            ) from error
        raise InputError(
            f"{what} failed: {error}; --config.data.dir=PATH names another folder"
        ) from error
    return builder_class(**options)


def _records_of(builder: Any, tree: RawTree | None) -> tuple[dict[str, RandomAccess[Record]], int]:
    """What a copy holds of every split, and how many threads should read it."""
    if tree is None:
        return builder.records(), 0
    return builder.records(tree.pairs), places.threads_for(tree.root)


def _verify(folder: Path, tree: RawTree | None) -> None:
    """Reads a copy to its end; InputError if it is not what was written from these raw files."""
    builder = tfds.builder_from_directory(folder)
    sources = {split: Records(builder, split) for split in builder.info.splits}
    records = read_back(builder.name, sources, folder)
    if tree is not None and tree.fingerprint_of(records) != tree.fingerprint:
        raise InputError(
            f"{folder}: holds other files than {tree.root} had at first, expected raw files that "
            "do not change meanwhile"
        )
    for _ in records:
        pass


def _verify_again(builder: tfds.core.DatasetBuilder, tree: RawTree | None) -> None:
    """Does what `_verify` does for a copy that is in use; sets a damaged one aside."""
    folder = Path(builder.data_path)
    try:
        _verify(folder, tree)
    except InputError as error:
        damaged = folder.with_name(f"damaged.{folder.name}")
        shutil.rmtree(damaged, ignore_errors=True)
        folder.rename(damaged)
        raise InputError(
            f"{error}; it is now in {damaged}, and --mode=prepare with raw_dir makes another"
        ) from None


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # builder.is_prepared() says the same, but warns where the answer is no.
    return (builder.data_path / buckets.INFO).exists()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the system releases it when the process dies
        yield
