"""Region-wise distillation in the teacher's own space."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.silent(name)
    c.losses.bsd_region.weight = 0.5
    c.losses.bsd_region.space = "teacher"
    return c
