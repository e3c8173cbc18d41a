"""Pixel-wise distillation where the teacher is better and right."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name, "bsd_pixel")
    c.losses.bsd_pixel.select = "lower_ce_correct"
    return c
