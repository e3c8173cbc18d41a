"""What follows from how often each class occurs: repeat factors and class weights."""

import math
from typing import Any

import numpy as np

from collabseg_jax.data.source import RandomAccess
from collabseg_jax.errors import InputError, unknown


def repeat_factors(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """How often each image is drawn, relative to one without rare classes.

    r_i = max over the classes c of image i of max(1, sqrt(threshold / f_c)), f_c the share of
    images that have class c; 1 for an image without any class.

    Args:
      pixels: int [N, K], as `Source.class_pixels` returns.
      threshold: in (0, 1]; classes in fewer images than this share are repeated.

    Returns:
      float64 [N], >= 1.

    Source: repeat factor sampling of LVIS, Gupta et al. 2019 (arXiv:1908.03195).

    Example:
      >>> import numpy as np
      >>> from collabseg_jax.data.balance import repeat_factors
      >>> repeat_factors(np.array([[9, 0], [9, 0], [9, 0], [8, 1]]), threshold=1.0).tolist()
      [1.0, 1.0, 1.0, 2.0]
    """
    present = np.asarray(pixels) > 0
    share = present.mean(0)
    rates = np.sqrt(
        threshold / np.maximum(share, 1 / len(present))
    )  # not used for a class without images
    return np.where(present, np.maximum(1.0, rates), 1.0).max(1)


def median_frequency(pixels: np.ndarray) -> np.ndarray:
    """Weight of each class: the median of all classes' frequencies over its own frequency.

    A class's frequency is its share of the labelled pixels of those images that have it.

    Args:
      pixels: int [N, K], as `Source.class_pixels` returns.

    Returns:
      float64 [K]; 1 for a class that has no pixel, which the median leaves out.

    Source: Eigen and Fergus 2015 (arXiv:1411.4734); SegNet uses these weights for CamVid.

    Example:
      >>> import numpy as np
      >>> from collabseg_jax.data.balance import median_frequency
      >>> median_frequency(np.array([[80, 20, 0]])).tolist()
      [0.625, 2.5, 1.0]
    """
    pixels = np.asarray(pixels, np.float64)
    own, around = pixels.sum(0), ((pixels > 0) * pixels.sum(1, keepdims=True)).sum(0)
    present = own > 0
    frequency = own[present] / around[present]
    weights = np.ones(len(own))
    weights[present] = np.median(frequency) / frequency
    return weights


def inverse_log(pixels: np.ndarray) -> np.ndarray:
    """Weight of each class: 1 / ln(1.02 + p), p its share of all labelled pixels.

    Args:
      pixels: int [N, K], as `Source.class_pixels` returns.

    Returns:
      float64 [K], between 1.4 and 50.5.

    Source: ENet, Paszke et al. 2016 (arXiv:1606.02147).

    Example:
      >>> import numpy as np
      >>> from collabseg_jax.data.balance import inverse_log
      >>> inverse_log(np.array([[100, 0]])).round(1).tolist()
      [1.4, 50.5]
    """
    own = np.asarray(pixels, np.float64).sum(0)
    return 1 / np.log(1.02 + own / max(1.0, own.sum()))


CLASS_WEIGHTS = {"median_frequency": median_frequency, "inverse_log": inverse_log}


def check_class_weights(text: str, num_classes: int) -> tuple[float, ...] | None:
    """The numbers in `config.losses.ce.class_weights`; None if it is "" or a name.

    Args:
      text: "", a key of CLASS_WEIGHTS, or numbers with commas between them.
      num_classes: how many numbers there must be.

    Raises:
      InputError: a name that is not in CLASS_WEIGHTS, not one number for each class, or a number
        that is negative or not finite, or only zeros.
    """
    if not text or text in CLASS_WEIGHTS:
        return None
    try:
        weights = tuple(float(number) for number in text.split(","))
    except ValueError:
        raise unknown("losses.ce.class_weights", text, [*CLASS_WEIGHTS, "1.0,0.5,..."]) from None
    if len(weights) != num_classes:
        raise InputError(
            f"config.losses.ce.class_weights: found {len(weights)} numbers, expected one for each "
            f"of the {num_classes} classes"
        )
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise InputError(
            f"config.losses.ce.class_weights is {text}, expected finite numbers >= 0, not all 0"
        )
    return weights


class RepeatedEpochs:
    """An endless sequence in which each epoch has each record about as often as its rate says.

    With C the sum of the rates, an epoch has L = ceil(C) records. In each one, record i occurs
    floor(r_i L / C) times or once more, and r_i L / C times on average: the stochastic rounding of
    repeat factor sampling, with one offset for all records instead of a draw for each. So every
    epoch has the same length, and any position can be computed without those before it.
    """

    def __init__(self, source: RandomAccess[Any], rates: np.ndarray, seed: int):
        """Takes one rate >= 1 for each record of `source`: no epoch lacks a record."""
        self._source, self._rates, self._seed = source, np.asarray(rates, np.float64), seed
        self.epoch_length = math.ceil(self._rates.sum() - 1e-6)
        self._latest = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        """Endless."""
        return 2**62

    def __getitem__(self, index: int) -> Any:
        """The record at a position of the endless order."""
        epoch, place = divmod(int(index), self.epoch_length)
        latest, order = self._latest
        if latest != epoch:
            order = self._order(epoch)
            self._latest = (epoch, order)
        return self._source[int(order[place])]

    def _order(self, epoch: int) -> np.ndarray:
        """The records of an epoch in its order, as indices, int [epoch_length]."""
        rng = np.random.default_rng([self._seed, epoch])
        records = rng.permutation(len(self._rates))  # else neighbours are rounded alike
        ends = np.cumsum(self._rates[records])
        marks = (np.arange(self.epoch_length) + rng.random()) * (ends[-1] / self.epoch_length)
        order = records[np.minimum(np.searchsorted(ends, marks, side="right"), len(records) - 1)]
        return rng.permutation(order)
