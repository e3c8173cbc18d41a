"""The method without its second loss."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.start(name)
    c.losses.bsd_region.weight = 0.0
    return c
