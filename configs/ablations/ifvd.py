"""IFVD (Wang et al. 2020)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.ifvd.weight = 20.0
    return c
