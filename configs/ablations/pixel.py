"""Pixel-wise selective distillation alone."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.silent(name)
    c.losses.bsd_pixel.weight = 0.3
    return c
