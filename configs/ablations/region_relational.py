"""Region-wise distillation by relations between positions."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name, "bsd_region")
    c.losses.bsd_region.divergence = "relational"
    return c
