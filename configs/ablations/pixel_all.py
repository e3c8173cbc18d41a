"""Pixel-wise distillation at every pixel, from both sides."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.silent(name)
    c.losses.bsd_pixel.weight = 0.3
    c.losses.bsd_pixel.select = "all"
    return c
