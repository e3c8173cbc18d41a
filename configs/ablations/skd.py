"""Pair-wise structured distillation (Liu et al. 2019)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.skd.weight = 10.0
    return c
