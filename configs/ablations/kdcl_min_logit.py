"""KDCL (Guo et al. 2020), the smaller of both relative logits."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.kdcl.weight = 1.0
    c.losses.kdcl.ensemble = "min_logit"
    return c
