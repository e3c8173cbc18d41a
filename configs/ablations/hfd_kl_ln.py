"""HFD by KL after normalisation."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name, "hfd")
    c.losses.hfd.divergence = "kl_ln"
    return c
