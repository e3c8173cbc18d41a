"""KDCL (Guo et al. 2020), the mean of both logits."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.kdcl.weight = 1.0
    c.losses.kdcl.ensemble = "mean"
    return c
