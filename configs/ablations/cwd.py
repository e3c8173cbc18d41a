"""CWD on logits (Shu et al. 2021)."""

from collabseg_jax.configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.only(name)
    c.losses.cwd.weight = 3.0
    return c
