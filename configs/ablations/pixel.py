"""Pixel-wise selective distillation alone."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    return ablations.only(name, "bsd_pixel")
