"""MGD (Yang et al. 2022)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.mgd.weight = 2e-5
    return c
