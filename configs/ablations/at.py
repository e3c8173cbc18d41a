"""Attention transfer (Zagoruyko & Komodakis 2017)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.at.weight = 1e4
    return c
