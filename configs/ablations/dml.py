"""Deep mutual learning (Zhang et al. 2018)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.dml.weight = 1.0
    return c
