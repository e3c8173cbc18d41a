"""Pure functions on arrays: what two students can be told about each other, and about the labels.

Every distillation loss is three choices: WHAT is compared, WHERE, and HOW FAR apart. Selectors
say where, divergences how far (unreduced), `masked_mean` is the only reducer.
"""

from collabseg_jax.losses.bsd import bsd_pixel, bsd_region
from collabseg_jax.losses.divergences import (
    DIVERGENCES,
    cosine,
    get_divergence,
    kl,
    kl_ln,
    mse,
    relational,
)
from collabseg_jax.losses.hfd import hfd
from collabseg_jax.losses.mutual import dml
from collabseg_jax.losses.reduce import cell_mean, masked_mean, weighted_mean
from collabseg_jax.losses.selectors import SELECTORS, select_where
from collabseg_jax.losses.supervised import cross_entropy

__all__ = [
    "DIVERGENCES",
    "SELECTORS",
    "bsd_pixel",
    "bsd_region",
    "cell_mean",
    "cosine",
    "cross_entropy",
    "dml",
    "get_divergence",
    "hfd",
    "kl",
    "kl_ln",
    "masked_mean",
    "mse",
    "relational",
    "select_where",
    "weighted_mean",
]
