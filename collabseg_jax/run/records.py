"""What a config trains on: which records, how often each is drawn, how classes are weighted."""

import dataclasses
from typing import Any

import numpy as np

from collabseg_jax import data
from collabseg_jax.data import balance
from collabseg_jax.run.console import console


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
      source: the records.
      fingerprint: of the data set and of the records chosen from it.
      rates: see `data.train_batches`; None for each record once in an epoch.
      class_weights: see `objective.Objective`.
    """

    source: data.Source
    fingerprint: str
    rates: np.ndarray | None
    class_weights: tuple[float, ...] | None


def choose_records(config: Any, prepared: data.Prepared) -> TrainingData:
    """The records that a config trains on, and how they are balanced; says it in a line each.

    Args:
      config: of the run.
      prepared: its data set.

    Raises:
      InputError: unknown split, or a subset or class weights that are invalid.
    """
    splits, weights = config.data.split, config.losses.ce.class_weights
    whole = prepared.source(splits)
    source, fingerprint = data.choose(whole, config.data.subset), prepared.fingerprint
    if source is not whole:
        fingerprint = f"{fingerprint}, {source}"
        console(f"training on {source} of {splits}")
    rates: np.ndarray | None = None
    class_weights = balance.check_class_weights(weights, prepared.spec.num_classes)
    if config.data.oversample or weights in balance.CLASS_WEIGHTS:
        pixels = source.class_pixels(prepared.spec)
    if config.data.oversample:
        rates = balance.repeat_factors(pixels, config.data.oversample)
        console(
            f"oversampling: epochs of {rates.sum():.0f} draws from {len(source)} records, repeat "
            f"factors up to {rates.max():.2f}"
        )
    if weights in balance.CLASS_WEIGHTS:
        class_weights = tuple(balance.CLASS_WEIGHTS[weights](pixels).tolist())
        named = zip(prepared.spec.classes, class_weights, strict=True)
        console("class weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in named))
    if config.data.cache:
        size = data.cache_bytes(source) / 2**30
        console(f"data.cache: {len(source)} decoded records will take {size:.2f} GiB of memory")
    return TrainingData(source, fingerprint, rates, class_weights)
