"""Heterogeneous feature distillation: first features through the peer's second stage."""

import jax.numpy as jnp

from collabseg_jax.losses.divergences import MAX_RELATIONAL_GRID, get_divergence, relational
from collabseg_jax.losses.reduce import cell_mean, masked_mean


def hfd(borrowed, native, *, divergence="cosine"):
    """HFD loss of one student.

    Args:
      borrowed: [B, h, w, C], the learner's F1 after the projection and the peer's stage 2.
      native: [B, h, w, C], the peer's own F2; no gradient flows into it.
      divergence: a name of `DIVERGENCES`; "relational" compares maps pooled to 32x32 at most.
    Returns:
      scalar float32, the mean over every position (there are no labels at this depth).
    Source: Zhu et al. 2023, HFD; docs/method.md.
    """
    distance = get_divergence(divergence)
    if distance is relational:
        grid = tuple(min(n, MAX_RELATIONAL_GRID) for n in native.shape[1:3])
        everywhere = jnp.ones(native.shape[:3], bool)
        borrowed, native = (cell_mean(x, everywhere, grid)[0] for x in (borrowed, native))
    values = distance(borrowed, native)
    return masked_mean(values, jnp.ones(values.shape, bool))
