"""Work on an enlarged map, a strip of its rows at a time, so that it is never whole in memory."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from collabseg_jax.ops.precision import wide_dtype
from collabseg_jax.ops.resize import interpolation_matrix, resize_bilinear


def over_rows(
    fn: Callable[[dict[str, jax.Array], Any, Any], Any],
    maps: Mapping[str, tuple[jax.Array, bool]],
    arrays: Any,
    *,
    size: tuple[int, int],
    rows: int = 0,
) -> Any:
    """Apply `fn` to maps enlarged to `size`, on strips of `rows` rows one after the other.

    The strips are recomputed in the backward pass, so only one strip of the enlarged maps and of
    what `fn` makes of them is in memory at a time. `fn` may close over values that are the same
    for all rows.

    Args:
      fn: ({name: [B, r, W, C]}, rows of the arrays, index of the strip) -> tree of [B, r, W].
      maps: {name: (float [B, h, w, C], align_corners)}, enlarged as by `resize_bilinear`.
      arrays: tree of [B, H, W, ...] whose rows `fn` needs.
      size: (H, W).
      rows: rows of a strip; 0, or at least H, for all rows at once.

    Returns:
      What `fn` returns, with the strips joined to [B, H, W].

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> maps = {"x": (jnp.ones((1, 2, 2, 3)), False)}
      >>> ops.over_rows(lambda m, _, i: m["x"].sum(-1), maps, {}, size=(8, 8), rows=2).shape
      (1, 8, 8)
    """
    if not 0 < rows < size[0]:
        whole = {
            name: resize_bilinear(x, size, align_corners=aligned)
            for name, (x, aligned) in maps.items()
        }
        return fn(whole, arrays, 0)
    count = -(-size[0] // rows)
    tables = {
        name: _windows(x.shape[1], size[0], rows, aligned, wide_dtype(x))
        for name, (x, aligned) in maps.items()
    }

    def split(x: jax.Array) -> jax.Array:
        missing = count * rows - size[0]
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, rows, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def strip(given: tuple[Any, Any, Any]) -> Any:
        index, windows, part = given
        enlarged = {
            name: _enlarge(x, windows[name], (rows, size[1]), aligned)
            for name, (x, aligned) in maps.items()
        }
        return fn(enlarged, part, index)

    made = lax.map(strip, (jnp.arange(count), tables, jax.tree.map(split, arrays)))

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], count * rows, *x.shape[3:])[:, : size[0]]

    return jax.tree.map(join, made)


def _windows(
    length: int, size: int, rows: int, aligned: bool, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """For each strip: the first of the input rows that it reads, and how it mixes them.

    Returns:
      first, int32 [strips]; mix, [strips, rows, window]. Rows beyond `size` are 0.
    """
    matrix = interpolation_matrix(length, size, align_corners=aligned, dtype=dtype)
    strips = [matrix[start : start + rows] for start in range(0, size, rows)]
    read = [np.flatnonzero(strip.any(0)) for strip in strips]
    window = max(at[-1] - at[0] + 1 for at in read)
    first = np.array([min(at[0], length - window) for at in read], np.int32)
    mix = np.zeros((len(strips), rows, window), dtype)
    for i, strip in enumerate(strips):
        mix[i, : len(strip)] = strip[:, first[i] : first[i] + window]
    return first, mix


def _enlarge(
    x: jax.Array, window: tuple[jax.Array, jax.Array], shape: tuple[int, int], aligned: bool
) -> jax.Array:
    """One strip of the enlarged [B, h, w, C], with one of `_windows`: [B, *shape, C]."""
    first, mix = window
    read = lax.dynamic_slice_in_dim(x, first, mix.shape[1], axis=1)
    mixed = jnp.einsum("rn,bnwc->brwc", mix, read, precision=lax.Precision.HIGHEST)
    return resize_bilinear(mixed, shape, align_corners=aligned)
