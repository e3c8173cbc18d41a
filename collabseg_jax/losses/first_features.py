"""Heterogeneous feature distillation: first features through the peer's second stage."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.cells import cell_mean
from collabseg_jax.losses.divergences import get_divergence, relational, relational_grid
from collabseg_jax.losses.reduce import masked_mean


def hfd(borrowed: jax.Array, native: jax.Array, *, divergence: str = "cosine") -> jax.Array:
    """HFD loss of one student.

    Args:
      borrowed: [B, h, w, C] float, the learner's F1 after the projection and the peer's stage 2.
      native: [B, h, w, C] float, the peer's own F2; no gradient flows into it.
      divergence: a key of `DIVERGENCES`; "relational" compares maps pooled to 32x32 at most.

    Returns:
      Scalar float32, the mean over all positions (there are no labels at this depth).

    Raises:
      ValueError: an unknown divergence, or shapes that differ.

    Source:
      Zhu et al. 2023, HFD; docs/method.md.

    Example:
      >>> borrowed = jnp.array([[[[3.0, 4.0], [1.0, 0.0]]]])
      >>> native = jnp.array([[[[4.0, 3.0], [0.0, 1.0]]]])
      >>> round(float(hfd(borrowed, native)), 4)  # (1 - 24/25 + 1 - 0) / 2
      0.52
    """
    distance = get_divergence(divergence)
    if distance is relational:
        grid, everywhere = relational_grid(native), jnp.ones(native.shape[:3], bool)
        borrowed, native = (cell_mean(x, everywhere, grid)[0] for x in (borrowed, native))
    values = distance(borrowed, native)
    return masked_mean(values, jnp.ones(values.shape, bool))
