"""The prepared copies that exist: which one is meant, and the spec that is noted in it."""

import json
from pathlib import Path
from typing import Any

from collabseg_jax.data import buckets, places
from collabseg_jax.data.builders.base import PairBuilder
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError

METADATA = "metadata.json"  # TFDS writes what a builder notes into this file


def find_spec(
    spec: DatasetSpec, builder_class: type[PairBuilder], *, raw_dir: str, data_dir: str
) -> DatasetSpec:
    """The spec that the raw files, or without them the only prepared copy, describe.

    Args:
      spec: what is known of the data set without files.
      builder_class: of the data set.
      raw_dir: as for `collabseg_jax.data.prepare`.
      data_dir: as for `collabseg_jax.data.prepare`.

    Raises:
      InputError: the files that name the classes are missing or bad; no copy, or several.
    """
    if raw_dir:
        return builder_class.find_spec(places.resolve(raw_dir, "data.raw_dir"))
    return spec_of(only_copy(spec, builder_class, shared_root(data_dir)))


def shared_root(data_dir: str) -> Path:
    """The folder of finished copies: in a bucket, or on this machine."""
    return buckets.bucket_root(data_dir) or buckets.local_root(data_dir)


def only_copy(spec: DatasetSpec, builder_class: type[PairBuilder], root: Path) -> Path:
    """The folder of the only prepared copy of a data set under `root`.

    Raises:
      InputError: there is none, or there are several.
    """
    infos = sorted((root / spec.name).glob(f"*/{builder_class.VERSION}/{buckets.INFO}"))
    if not infos:
        raise InputError(
            f"no prepared {spec.name} in {root}: give --config.data.raw_dir=PATH, or get the data: "
            f"{spec.source}"
        )
    if len(infos) > 1:
        listing = "; ".join(
            f"{path.parent} (from {_metadata(path.parent).get('raw_dir', 'unknown')})"
            for path in infos
        )
        raise InputError(
            f"{len(infos)} prepared copies of {spec.name}, expected one: give "
            f"--config.data.raw_dir=PATH to choose. Found: {listing}"
        )
    return infos[0].parent


def spec_of(copy: Path) -> DatasetSpec:
    """The spec that is noted in a copy; InputError if there is none."""
    try:
        return DatasetSpec.from_record(_metadata(copy)["spec"])
    except KeyError as error:
        raise InputError(
            f"{copy / METADATA}: has no {error.args[0]!r} that can be read, expected what the "
            "labels mean; give --config.data.raw_dir=PATH"
        ) from None


def _metadata(copy: Path) -> dict[str, Any]:
    """What `PairBuilder` noted about a copy; nothing if that cannot be read."""
    try:
        return json.loads((copy / METADATA).read_text())
    except (OSError, ValueError):
        return {}
