"""CIRKD within the batch (Yang et al. 2022)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.cirkd.weight = 1.0
    return c
