"""Pixel-wise distillation at every pixel, from both sides."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name, "bsd_pixel")
    c.losses.bsd_pixel.select = "all"
    return c
