"""Hinton's distillation both ways, at the head's resolution."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.kd_mutual.weight = 1.0
    return c
