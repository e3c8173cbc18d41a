"""The method: the paper's three losses."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    return ablations.start(name)
