"""The method, where the teacher is better and right."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.start(name)
    c.losses.bsd_region.select = "lower_ce_correct"
    c.losses.bsd_pixel.select = "lower_ce_correct"
    return c
