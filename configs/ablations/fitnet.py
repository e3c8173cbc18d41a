"""FitNets (Romero et al. 2015)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.fitnet.weight = 10.0
    return c
