"""HFD whose borrowed stages learn too."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name, "hfd")
    c.losses.hfd.borrowed_grad = True
    return c
