"""The one reducer, its weighted form, and what the cells of a coarse grid hold."""

import functools
import itertools

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


def mean_of(unreduced):
    """The mean over the selected pixels of what `unreduced` returns, (values, where).

    Each pixel's value hangs on that pixel alone, so `fn.unreduced` may be given any part of them.
    """

    @functools.wraps(unreduced)
    def fn(*arrays, **options):
        return masked_mean(*unreduced(*arrays, **options))

    fn.unreduced = unreduced
    return fn


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


def valid_cells(valid, grid):
    """The cells of a coarser grid with at least one valid pixel.

    Args:
      valid: [B, H, W] bool.
      grid: (h, w); cells as in `cell_mean`.
    Returns:
      [B, h, w] bool; `valid` itself if that is its grid.
    """
    return valid if valid.shape[1:3] == tuple(grid) else cell_mean(valid, valid, grid)[1]


def on_one_grid(student, teacher, valid):
    """Two maps on the coarser of their grids, for losses that need no common channels.

    Each map is averaged over the cells of that grid, over its own positions with at least one
    valid pixel. A position of the result counts if both maps and the labels have something there.

    Args:
      student, teacher: [B, h, w, C] and [B, h', w', C'], any float type.
      valid: [B, H, W] bool.
    Returns:
      student, teacher: float32 [B, min(h, h'), min(w, w'), C or C'], 0 where they do not count;
      where: [B, min(h, h'), min(w, w')] bool, the positions that count.
    """
    grid = tuple(map(min, student.shape[1:3], teacher.shape[1:3]))
    maps, where = [], valid_cells(valid, grid)
    for x in (student, teacher):
        here = valid_cells(valid, x.shape[1:3])
        if x.shape[1:3] != grid:
            x, here = cell_mean(x, here, grid)
        maps.append(x)
        where = where & here
    return *(jnp.where(where[..., None], x.astype(jnp.float32), 0.0) for x in maps), where


def cell_max(values, where, grid):
    """Maximum over the selected positions of each cell of a coarser grid.

    Args:
      values: [B, H, W, C] float.
      where: [B, H, W] bool; values outside it may be anything, NaN too.
      grid: (h, w), at most (H, W); cells as in `cell_mean`.
    Returns:
      maxima [B, h, w, C] float32, 0 in a cell with no selected position; has_any [B, h, w] bool.
    """
    low = jnp.where(where[..., None], values.astype(jnp.float32), -jnp.inf)
    for axis in (1, 2):
        size, cells = low.shape[axis], grid[axis - 1]
        edges = [-(-cell * size // cells) for cell in range(cells + 1)]
        low = jnp.stack(
            [
                jax.lax.slice_in_dim(low, start, end, axis=axis).max(axis)
                for start, end in itertools.pairwise(edges)
            ],
            axis,
        )
    has_any = valid_cells(where, grid)
    return jnp.where(has_any[..., None], low, 0.0), has_any


def cell_label(labels, valid, grid, *, num_classes):
    """The most frequent class among the valid pixels of each cell; of equals the lowest.

    Args:
      labels: [B, H, W] integer, in [0, num_classes) where valid.
      valid: [B, H, W] bool.
      grid: (h, w); cells as in `cell_mean`.
    Returns:
      [B, h, w] int32; 0 in a cell with no valid pixel.
    """
    batch, height, width = labels.shape
    rows = jnp.arange(height) * grid[0] // height
    cols = jnp.arange(width) * grid[1] // width
    at = (jnp.arange(batch)[:, None, None], rows[:, None], cols, jnp.where(valid, labels, 0))
    counts = jnp.zeros((batch, *grid, num_classes), jnp.int32).at[at].add(valid.astype(jnp.int32))
    return jnp.argmax(counts, -1).astype(jnp.int32)
