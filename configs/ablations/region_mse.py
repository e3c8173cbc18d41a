"""Region-wise distillation by squared differences."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name, "bsd_region")
    c.losses.bsd_region.divergence = "mse"
    return c
