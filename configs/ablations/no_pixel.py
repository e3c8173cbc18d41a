"""The method without its third loss."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.start(name)
    c.losses.bsd_pixel.weight = 0.0
    return c
