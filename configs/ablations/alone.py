"""Each student by itself, without a word to the other."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    return ablations.only(name)
