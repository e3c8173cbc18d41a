"""Prepared copies: a raw tree becomes records once, and is found again by its fingerprint."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data import buckets as copies
from collabseg_jax.data import places
from collabseg_jax.data.builders.base import PairBuilder
from collabseg_jax.data.fingerprint import RawTree
from collabseg_jax.data.records import Records
from collabseg_jax.data.selection import Joined
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.writing import FULL, read_back, write
from collabseg_jax.errors import InputError, RunError


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
        return builder_class.find_spec(places.resolve(raw_dir, "data.raw_dir"))
    return _spec_of(_only_copy(spec, builder_class, _shared_root(data_dir)), spec)


def open_prepared(
    spec: DatasetSpec, builder_class: type, *, raw_dir: str, data_dir: str, verify: bool = False
) -> Prepared:
    """Finds the prepared copy, or makes it; see `collabseg_jax.data.prepare`."""
    root, shared = copies.local_root(data_dir), _shared_root(data_dir)
    options, tree = {"data_dir": root, "file_format": "array_record"}, None
    if issubclass(builder_class, PairBuilder):
        if raw_dir:
            raw_dir = places.resolve(raw_dir, "data.raw_dir")
            spec, pairs = builder_class.find_spec(raw_dir), builder_class.find_pairs(raw_dir)
            tree = RawTree(builder_class.root(raw_dir), pairs, builder_class.EXTRA_FILES)
            fingerprint = tree.fingerprint
        else:
            copy = _only_copy(spec, builder_class, shared)
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
    copy = shared / Path(builder.data_path).relative_to(root)
    if not _is_prepared(builder):
        builder = _obtain(builder_class, options, tree, copy)
    elif verify:
        _verify_again(builder, tree)
    if verify and not (copy / copies.INFO).exists():
        copies.send(Path(builder.data_path), copy)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    return Prepared(spec, builder.data_dir, fingerprint, sizes, builder)


def _shared_root(data_dir: str) -> Path:
    """Where finished copies are found: in a bucket, or where they are used."""
    return copies.bucket_root(data_dir) or copies.local_root(data_dir)


def _obtain(
    builder_class: type, options: dict, tree: RawTree | None, copy: Path
) -> tfds.core.DatasetBuilder:
    """The builder of a copy that was fetched, or else written or continued, and verified.

    Args:
      builder_class: with the next, whose copy.
      options: of the builder.
      tree: the raw files; None if there are none.
      copy: the finished copy in the place that is shared, there or not.
    """
    builder = builder_class(**options)
    target = Path(builder.data_path)
    shared, there = places.is_bucket(copy), (copy / copies.INFO).exists()
    what = f"fetching {copy}" if there else f"preparing {builder.name} in {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent / ".lock"):
            if target.exists():  # another process has done it while this one waited
                return builder_class(**options)
            partial = target.with_name(f"{'fetched' if there else 'partial'}.{target.name}")
            if there:
                copies.fetch(copy, partial)
            elif tree is None:
                write(builder, builder.records(), partial)
            else:
                records, threads = builder.records(tree.pairs), places.threads_for(tree.root)
                write(builder, records, partial, threads=threads)
            try:
                _verify(partial, tree)
            except InputError:
                shutil.rmtree(partial)
                raise
            partial.rename(target)
            if shared and not there:
                copies.send(target, copy)
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


def _verify(folder: Path, tree: RawTree | None) -> None:
    """Reads a copy to its end; InputError if it is not what was written, of these raw files."""
    builder = tfds.builder_from_directory(folder)
    sources = {split: Records(builder, split) for split in builder.info.splits}
    records = read_back(builder.name, sources, folder)
    if tree is not None and tree.fingerprint_of(records) != tree.fingerprint:
        raise InputError(
            f"{folder}: holds other files than {tree.root} had at first, expected raw files that "
            "nobody changes meanwhile"
        )
    for _ in records:
        pass


def _verify_again(builder: tfds.core.DatasetBuilder, tree: RawTree | None) -> None:
    """As `_verify`, of a copy that is in use; sets a damaged one aside."""
    folder = Path(builder.data_path)
    try:
        _verify(folder, tree)
    except InputError as error:
        damaged = folder.with_name(f"damaged.{folder.name}")
        shutil.rmtree(damaged, ignore_errors=True)
        folder.rename(damaged)
        raise InputError(
            f"{error}; it now lies in {damaged}, and --mode=prepare with raw_dir makes another"
        ) from None


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # builder.is_prepared() says the same, but warns where the answer is no.
    return (builder.data_path / copies.INFO).exists()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go by the system too, when the process dies
        yield


def _only_copy(spec: DatasetSpec, builder_class: type, root: Path) -> Path:
    """The folder of the one prepared copy under `root`, in a folder named by its fingerprint."""
    found = sorted((root / spec.name).glob(f"*/{builder_class.VERSION}/{copies.INFO}"))
    if not found:
        raise InputError(
            f"no prepared {spec.name} in {root}: give --config.data.raw_dir=PATH, or get the data: "
            f"{spec.source}"
        )
    if len(found) > 1:
        listing = "; ".join(
            f"{path.parent} (from {_metadata(path.parent).get('raw_dir', 'unknown')})"
            for path in found
        )
        raise InputError(
            f"{len(found)} prepared copies of {spec.name}, expected one: give "
            f"--config.data.raw_dir=PATH to choose. Found: {listing}"
        )
    return found[0].parent


def _spec_of(copy: Path, spec: DatasetSpec) -> DatasetSpec:
    """The spec that lies with a copy; what an earlier version did not note is that of `spec`."""
    return DatasetSpec.from_record(spec.to_record() | _metadata(copy).get("spec", {}))


def _metadata(copy: Path) -> dict:
    """What `PairBuilder` noted about a copy; nothing if that cannot be read."""
    try:
        return json.loads((copy / "metadata.json").read_text())
    except (OSError, ValueError):
        return {}
