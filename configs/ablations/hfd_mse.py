"""HFD by squared differences."""

from configs import ablations


def get_config(name="quickstart"):
    """See above."""
    c = ablations.silent(name)
    c.losses.hfd.weight = 0.3
    c.losses.hfd.divergence = "mse"
    return c
