"""The one reducer, its weighted form, and means over the cells of a coarse grid."""

import jax
import jax.numpy as jnp


def masked_mean(values, where):
    """Mean of `values` where `where` holds: sum / max(1, count).

    Args:
      values: [...] float.
      where: [...] bool, same shape. Values outside it may be anything, NaN too.
    Returns:
      scalar float32; 0 where nothing is selected.
    """
    if values.shape != where.shape:
        raise ValueError(f"values {values.shape} and where {where.shape} must have one shape")
    kept = jnp.where(where, values.astype(jnp.float32), 0.0)
    return kept.sum() / jnp.maximum(1, where.sum())


def weighted_mean(values, weights, where):
    """Weighted mean of `values` where `where` holds: sum of weight * value / sum of weights.

    Args:
      values: [...] float.
      weights: [...] float, >= 0, same shape.
      where: [...] bool, same shape. Values and weights outside it may be anything, NaN too.
    Returns:
      scalar float32; 0 where nothing is selected, or nothing with a weight.
    """
    if not values.shape == weights.shape == where.shape:
        raise ValueError(
            f"values {values.shape}, weights {weights.shape} and where {where.shape} must have "
            "one shape"
        )
    weights = jnp.where(where, weights.astype(jnp.float32), 0.0)
    kept = jnp.where(where, values.astype(jnp.float32), 0.0)
    total = weights.sum()
    return (weights * kept).sum() / jnp.where(total > 0, total, 1.0)


def _membership(cells: int, size: int):
    """[cells, size] float32, 1 where position p belongs to cell floor(p * cells / size)."""
    owner = jnp.arange(size) * cells // size
    return (owner[None, :] == jnp.arange(cells)[:, None]).astype(jnp.float32)


def cell_mean(values, where, grid):
    """Mean over the selected positions of each cell of a coarser grid.

    Position (y, x) belongs to cell (floor(y*h/H), floor(x*w/W)), so any size works.

    Args:
      values: [B, H, W] or [B, H, W, C] float.
      where: [B, H, W] bool; values outside it may be anything, NaN too.
      grid: (h, w).
    Returns:
      means [B, h, w] (or [B, h, w, C]) float32, 0 in a cell with no selected position;
      has_any [B, h, w] bool.
    """
    rows = _membership(grid[0], where.shape[1])
    cols = _membership(grid[1], where.shape[2])

    def cell_sum(x):
        return jnp.einsum(
            "hy,byx...,wx->bhw...", rows, x, cols, precision=jax.lax.Precision.HIGHEST
        )

    count = cell_sum(where.astype(jnp.float32))
    mask = where if values.ndim == 3 else where[..., None]
    total = cell_sum(jnp.where(mask, values.astype(jnp.float32), 0.0))
    divisor = jnp.maximum(count, 1.0)
    return total / (divisor if values.ndim == 3 else divisor[..., None]), count > 0
