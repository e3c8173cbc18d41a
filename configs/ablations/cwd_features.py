"""CWD on last features (Shu et al. 2021)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.cwd.weight = 50.0
    c.losses.cwd.on = "features"
    return c
