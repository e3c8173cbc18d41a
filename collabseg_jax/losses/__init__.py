"""Pure functions on arrays: what two students can learn from each other, and from the labels.

Every distillation loss is three choices: WHAT is compared, WHERE, and HOW FAR apart. Selectors
say where, divergences how far (unreduced), `masked_mean` is the only reducer. A loss whose value
at a pixel depends on that pixel alone has two faces: `dml_map` returns the values and where they
count, `dml` their mean.

Inputs may be of any float type. Everything is computed and returned in float32, or in float64 if
the inputs are float64.
"""

from collabseg_jax.losses.bsd import bsd_pixel, bsd_pixel_map, bsd_region
from collabseg_jax.losses.cells import cell_mean
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
from collabseg_jax.losses.first_features import hfd
from collabseg_jax.losses.online import ENSEMBLES, dml, dml_map, kd_mutual, kdcl, kdcl_map
from collabseg_jax.losses.reduce import masked_mean, weighted_mean
from collabseg_jax.losses.relations import cirkd, ifvd, skd
from collabseg_jax.losses.selectors import SELECTORS, select_where
from collabseg_jax.losses.supervised import cross_entropy

__all__ = [
    "DIVERGENCES",
    "ENSEMBLES",
    "SELECTORS",
    "at",
    "bsd_pixel",
    "bsd_pixel_map",
    "bsd_region",
    "cell_mean",
    "cirkd",
    "cosine",
    "cross_entropy",
    "cwd",
    "dist",
    "dml",
    "dml_map",
    "fitnet",
    "get_divergence",
    "hfd",
    "ifvd",
    "kd_mutual",
    "kdcl",
    "kdcl_map",
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
