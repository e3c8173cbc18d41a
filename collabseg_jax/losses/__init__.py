"""Pure functions on arrays: what two students can be told about each other, and about the labels.

Every distillation loss is three choices: WHAT is compared, WHERE, and HOW FAR apart. Selectors
say where, divergences how far (unreduced), `masked_mean` is the only reducer.
"""

from collabseg_jax.losses.bsd import bsd_pixel, bsd_region
from collabseg_jax.losses.correlation import dist
from collabseg_jax.losses.divergences import (
    DIVERGENCES,
    cosine,
    get_divergence,
    kl,
    kl_ln,
    mse,
    relational,
)
from collabseg_jax.losses.features import at, cwd, fitnet, mgd
from collabseg_jax.losses.hfd import hfd
from collabseg_jax.losses.online import ENSEMBLES, dml, kd_mutual, kdcl
from collabseg_jax.losses.reduce import cell_mean, masked_mean, weighted_mean
from collabseg_jax.losses.relations import cirkd, ifvd, skd
from collabseg_jax.losses.selectors import SELECTORS, select_where
from collabseg_jax.losses.supervised import cross_entropy

__all__ = [
    "DIVERGENCES",
    "ENSEMBLES",
    "SELECTORS",
    "at",
    "bsd_pixel",
    "bsd_region",
    "cell_mean",
    "cirkd",
    "cosine",
    "cross_entropy",
    "cwd",
    "dist",
    "dml",
    "fitnet",
    "get_divergence",
    "hfd",
    "ifvd",
    "kd_mutual",
    "kdcl",
    "kl",
    "kl_ln",
    "masked_mean",
    "mgd",
    "mse",
    "relational",
    "select_where",
    "skd",
    "weighted_mean",
]
