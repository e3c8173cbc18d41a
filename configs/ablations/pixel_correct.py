"""Pixel-wise distillation where the teacher is better and right."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.silent(name)
    c.losses.bsd_pixel.weight = 0.3
    c.losses.bsd_pixel.select = "lower_ce_correct"
    return c
