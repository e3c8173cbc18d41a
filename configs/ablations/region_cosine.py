"""Region-wise distillation by cosines."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.silent(name)
    c.losses.bsd_region.weight = 0.5
    c.losses.bsd_region.divergence = "cosine"
    return c
