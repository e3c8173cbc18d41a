"""The method without its first loss."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.start(name)
    c.losses.hfd.weight = 0.0
    return c
