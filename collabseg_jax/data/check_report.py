"""The check of a whole data set: every pair is read once; what it contains, and every error."""

import dataclasses
import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collabseg_jax.data.builders import base, finding
from collabseg_jax.data.check_pairs import Reading, fetch_files, fetch_record, read_all
from collabseg_jax.data.prepared import Prepared
from collabseg_jax.data.source import Size
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.labels import IGNORE

NEARLY_ALL = 0.99  # a label with this share of one class, or of ignored pixels, is suspicious
_COMMONEST = 5  # sizes that are listed
_NAMED = 4  # identical images that are named


@dataclasses.dataclass(frozen=True)
class Checked:
    """The outcome of a check.

    Attributes:
      report: in types that JSON has; docs/architecture.md describes it.
      spec: of the data; without classes if the files do not name them.
      readings: {split: one for each pair, in order}.
    """

    report: dict[str, Any]
    spec: DatasetSpec
    readings: dict[str, list[Reading]]


def check_files(
    spec: DatasetSpec,
    builder_class: type[base.PairBuilder],
    raw_dir: Path,
    *,
    needed: Collection[str],
    crop: tuple[int, int],
) -> Checked:
    """Checks raw files; messages name them by their paths in `raw_dir`. See `data.check`."""
    errors: dict[str, None] = {}  # lines; a dictionary, since two finders may report the same

    def report(*messages: str) -> None:
        errors.update((message.replace(f"{raw_dir}{os.sep}", ""), None) for message in messages)

    pairs: dict[str, list[finding.LabelledImage]] = {}
    readings = {}
    with finding.reporting(report):
        pairs = builder_class.find_pairs(raw_dir, report)
    with finding.reporting(report):
        spec = builder_class.find_spec(raw_dir, report)
    for split, members in pairs.items():
        if spec.classes:  # without them, nothing says what a label may hold
            fetches = [functools.partial(fetch_files, pair, raw_dir) for pair in members]
            readings[split] = read_all(fetches, spec, f"checking {spec.name} {split}")
    summary = summarize(spec, readings, list(errors), needed=needed, crop=crop)
    return Checked({"where": str(raw_dir), **summary}, spec, readings)


def check_records(prepared: Prepared, *, needed: Collection[str], crop: tuple[int, int]) -> Checked:
    """Checks a prepared copy. See `data.check`."""
    spec, readings = prepared.spec, {}
    for split, count in prepared.sizes.items():
        source = prepared.source(split)
        fetches = [functools.partial(fetch_record, source, split, i) for i in range(count)]
        readings[split] = read_all(fetches, spec, f"checking {spec.name} {split}")
    summary = summarize(spec, readings, [], needed=needed, crop=crop)
    return Checked({"where": prepared.builder_dir, **summary}, spec, readings)


def summarize(
    spec: DatasetSpec,
    readings: Mapping[str, Sequence[Reading]],
    errors: Sequence[str],
    *,
    needed: Collection[str],
    crop: tuple[int, int],
) -> dict[str, Any]:
    """The report on a data set.

    Args:
      spec: of the data.
      readings: {split: one for each of its pairs}.
      errors: lines from before any pair was read.
      needed: splits that should have pairs.
      crop: (height, width) of training crops, in pixels.
    """
    splits = {split: _split(spec, members) for split, members in readings.items()}
    everything = list(itertools.chain.from_iterable(readings.values()))
    training = readings.get(spec.splits[0], ())
    warnings = {
        "missing_splits": [s for s in needed if splits and not splits.get(s, {}).get("pairs")],
        "classes_not_in_training": list(_untrained(splits, spec.splits[0])),
        "repeats_across_splits": list(_repeats(readings, across=True)),
        "repeats_within_split": list(_repeats(readings, across=False)),
        "near_empty_labels": list(_near_empty_labels(spec, everything)),
        "smaller_than_crop": [
            f"{r.names[0]}: {_size(r.size)}, the crop is {_size(crop)} (width x height)"
            for r in training
            if r.size and (r.size[0] < crop[0] or r.size[1] < crop[1])
        ],
    }
    return {
        "data_set": spec.name,
        "splits": splits,
        "errors": [*errors, *(line for reading in everything for line in reading.errors)],
        "warnings": {kind: lines for kind, lines in warnings.items() if lines},
    }


def near_empty(reading: Reading) -> bool:
    """Whether almost all of the label is one class, or ignored."""
    return reading.counts is not None and reading.counts.max() >= NEARLY_ALL * reading.counts.sum()


def _near_empty_labels(spec: DatasetSpec, readings: Sequence[Reading]) -> Iterator[str]:
    """A line for every label that is almost empty."""
    for reading in readings:
        if reading.counts is not None and near_empty(reading):
            train_id = int(reading.counts.argmax())
            share = reading.counts[train_id] / reading.counts.sum()
            what = "ignored" if train_id == IGNORE else spec.classes[train_id]
            yield f"{reading.names[1]}: {share:.1%} {what}"


def _split(spec: DatasetSpec, readings: Sequence[Reading]) -> dict[str, Any]:
    """What a split contains; its pixels and classes are those of the pairs that can be used."""
    usable = [reading.counts for reading in readings if reading.counts is not None]
    counts = np.stack(usable) if usable else np.zeros((0, 256), np.int64)
    pixels, images = counts.sum(axis=0).tolist(), (counts > 0).sum(axis=0).tolist()
    total, scored = sum(pixels), sum(pixels) - pixels[IGNORE]
    return {
        "pairs": len(readings),
        "unusable": len(readings) - len(usable),
        "sizes": _sizes([reading.size for reading in readings if reading.size]),
        "pixels": total,
        "ignored": pixels[IGNORE] / max(1, total),
        "classes": {
            name: {"pixels": pixels[i], "share": pixels[i] / max(1, scored), "images": images[i]}
            for i, name in enumerate(spec.classes)
        },
    }


def _sizes(sizes: list[Size]) -> dict[str, Any]:
    """The smallest, median and largest (by area) and the most frequent of (height, width)."""
    if not sizes:
        return {}
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    counted = Counter(map(_size, sizes))
    return {
        "distinct": len(counted),
        "smallest": _size(ordered[0]),
        "median": _size(ordered[(len(ordered) - 1) // 2]),
        "largest": _size(ordered[-1]),
        "commonest": dict(counted.most_common(_COMMONEST)),
    }


def _size(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def _untrained(splits: Mapping[str, dict[str, Any]], train: str) -> Iterator[str]:
    """A line for every class without a pixel in the training split."""
    for name, row in splits.get(train, {}).get("classes", {}).items():
        if row["pixels"] == 0:
            images = {split: other["classes"][name]["images"] for split, other in splits.items()}
            elsewhere = [f"{count} images of {split}" for split, count in images.items() if count]
            yield name + (f", which {' and '.join(elsewhere)} show" if elsewhere else "")


def _repeats(readings: Mapping[str, Sequence[Reading]], *, across: bool) -> Iterator[str]:
    """A line for every image that several pairs have, in different splits or in one."""
    groups: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for split, members in readings.items():
        for reading in members:
            if reading.digest:
                groups[reading.digest].append((split, reading.names[0]))
    for group in groups.values():
        if len(group) > 1 and (len({split for split, _ in group}) > 1) == across:
            names = ", ".join(name for _, name in group[:_NAMED])
            yield names + (f" and {len(group) - _NAMED} more" if len(group) > _NAMED else "")
