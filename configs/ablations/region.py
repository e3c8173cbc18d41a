"""Region-wise selective distillation alone."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    return ablations.only(name, "bsd_region")
