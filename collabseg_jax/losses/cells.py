"""What the cells of a coarse grid hold.

Position (y, x) of a map of H x W belongs to cell (floor(y*h/H), floor(x*w/W)) of a grid of h x w,
so any sizes fit each other.
"""

import itertools

import jax
import jax.numpy as jnp

from collabseg_jax.losses.precision import widen
from collabseg_jax.losses.reduce import zero_outside


def _membership(cells: int, size: int, dtype: jnp.dtype) -> jax.Array:
    """[cells, size], 1 where position p belongs to cell floor(p * cells / size)."""
    owner = jnp.arange(size) * cells // size
    return (owner[None, :] == jnp.arange(cells)[:, None]).astype(dtype)


def cell_mean(
    values: jax.Array, where: jax.Array, grid: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Mean over the selected positions of each cell of a coarser grid.

    Args:
      values: [B, H, W] or [B, H, W, C] float.
      where: [B, H, W] bool; values outside it may be anything, NaN too.
      grid: (h, w), the number of cells.

    Returns:
      Two arrays: the means, [B, h, w] or [B, h, w, C] float32, 0 in a cell with no selected
        position; and [B, h, w] bool, True for cells with a selected position.

    Example:
      >>> values = jnp.array([[[1.0, 2.0, 3.0, 4.0]]])  # [B, H, W] = [1, 1, 4]
      >>> where = jnp.array([[[True, True, True, False]]])
      >>> means, has_any = cell_mean(values, where, (1, 2))
      >>> means.tolist(), has_any.tolist()  # (1 + 2) / 2 and 3 / 1
      ([[[1.5, 3.0]]], [[[True, True]]])
    """
    values = widen(values)
    rows = _membership(grid[0], where.shape[1], values.dtype)
    cols = _membership(grid[1], where.shape[2], values.dtype)

    def cell_sum(x: jax.Array) -> jax.Array:
        return jnp.einsum(
            "hy,byx...,wx->bhw...", rows, x, cols, precision=jax.lax.Precision.HIGHEST
        )

    count = cell_sum(where.astype(values.dtype))
    mask = where if values.ndim == 3 else where[..., None]
    total = cell_sum(jnp.where(mask, values, 0.0))
    divisor = jnp.maximum(count, 1.0)
    return total / (divisor if values.ndim == 3 else divisor[..., None]), count > 0


def valid_cells(valid: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """The cells of a coarser grid with at least one valid pixel.

    Args:
      valid: [B, H, W] bool.
      grid: (h, w), the number of cells.

    Returns:
      [B, h, w] bool; `valid` itself if that is its grid.
    """
    return valid if valid.shape[1:3] == tuple(grid) else cell_mean(valid, valid, grid)[1]


def on_one_grid(
    student: jax.Array, teacher: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two maps on the coarser of their grids, for losses that need no common channels.

    Each map is averaged over the cells of that grid, over its own positions with at least one
    valid pixel. A position of the result counts if both maps and the labels have something there.

    Args:
      student: [B, h, w, C] float.
      teacher: [B, h', w', C'] float.
      valid: [B, H, W] bool.

    Returns:
      Three arrays: student [B, min(h, h'), min(w, w'), C] float32, teacher likewise with C', both
        0 where a position does not count; and [B, min(h, h'), min(w, w')] bool, the positions
        that count.
    """
    grid = tuple(map(min, student.shape[1:3], teacher.shape[1:3]))
    maps, where = [], valid_cells(valid, grid)
    for x in (student, teacher):
        here = valid_cells(valid, x.shape[1:3])
        if x.shape[1:3] != grid:
            x, here = cell_mean(x, here, grid)
        maps.append(widen(x))
        where = where & here
    student, teacher = zero_outside(where, *maps)
    return student, teacher, where


def cell_max(
    values: jax.Array, where: jax.Array, grid: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Maximum over the selected positions of each cell of a coarser grid.

    Args:
      values: [B, H, W, C] float.
      where: [B, H, W] bool; values outside it may be anything, NaN too.
      grid: (h, w), the number of cells, at most (H, W).

    Returns:
      Two arrays: the maxima, [B, h, w, C] float32, 0 in a cell with no selected position; and
        [B, h, w] bool, True for cells with a selected position.
    """
    low = jnp.where(where[..., None], widen(values), -jnp.inf)
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


def cell_label(
    labels: jax.Array, valid: jax.Array, grid: tuple[int, ...], *, num_classes: int
) -> jax.Array:
    """The most frequent class among the valid pixels of each cell; ties go to the lowest.

    Args:
      labels: [B, H, W] integer, in [0, num_classes) where valid.
      valid: [B, H, W] bool.
      grid: (h, w), the number of cells.
      num_classes: K.

    Returns:
      [B, h, w] int32; 0 in a cell with no valid pixel.
    """
    batch, height, width = labels.shape
    rows = jnp.arange(height) * grid[0] // height
    cols = jnp.arange(width) * grid[1] // width
    at = (jnp.arange(batch)[:, None, None], rows[:, None], cols, jnp.where(valid, labels, 0))
    counts = jnp.zeros((batch, *grid, num_classes), jnp.int32).at[at].add(valid.astype(jnp.int32))
    return jnp.argmax(counts, -1).astype(jnp.int32)
