"""Work on an enlarged map, a strip of its rows at a time, so that it is never whole in memory."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from collabseg_jax.ops.resize import interpolation_matrix, resize_bilinear


def over_rows(fn, maps, arrays, *, size, rows=0):
    """`fn` of maps enlarged to `size`, on strips of `rows` rows one after the other.

    The strips are made again on the way back, so of the enlarged maps and of all that `fn` makes
    of them only one strip is held at a time. What is the same for all rows is `fn`'s own affair.

    Args:
      fn: ({name: [B, r, W, C]}, arrays' rows, index of the strip) -> tree of [B, r, W].
      maps: {name: (float [B, h, w, C], align_corners)}, enlarged as by `resize_bilinear`.
      arrays: tree of [B, H, W, ...] that `fn` needs the rows of.
      size: (H, W).
      rows: 0, or at least H, for all at once.
    Returns:
      what `fn` returns, [B, H, W] again.
    """
    if not 0 < rows < size[0]:
        whole = {
            name: resize_bilinear(x, size, align_corners=aligned)
            for name, (x, aligned) in maps.items()
        }
        return fn(whole, arrays, 0)
    count = -(-size[0] // rows)
    tables = {
        name: _windows(x.shape[1], size[0], rows, aligned) for name, (x, aligned) in maps.items()
    }

    def split(x):
        missing = count * rows - size[0]
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, rows, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def strip(given):
        index, windows, part = given
        enlarged = {
            name: _enlarge(x, *windows[name], (rows, size[1]), aligned)
            for name, (x, aligned) in maps.items()
        }
        return fn(enlarged, part, index)

    made = lax.map(strip, (jnp.arange(count), tables, jax.tree.map(split, arrays)))

    def join(x):
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], count * rows, *x.shape[3:])[:, : size[0]]

    return jax.tree.map(join, made)


def _windows(length, size, rows, aligned):
    """For each strip: the first of the input rows that it reads, and how it mixes them.

    Returns:
      first [strips] int32; mix [strips, rows, window] float32. Rows beyond `size` are 0.
    """
    matrix = interpolation_matrix(length, size, aligned)
    strips = [matrix[start : start + rows] for start in range(0, size, rows)]
    read = [np.flatnonzero(strip.any(0)) for strip in strips]
    window = max(at[-1] - at[0] + 1 for at in read)
    first = np.array([min(at[0], length - window) for at in read], np.int32)
    mix = np.zeros((len(strips), rows, window), np.float32)
    for i, strip in enumerate(strips):
        mix[i, : len(strip)] = strip[:, first[i] : first[i] + window]
    return first, mix


def _enlarge(x, first, mix, shape, aligned):
    """The strip of [B, h, w, C] that `mix` makes of the rows from `first` on: [B, *shape, C]."""
    window = lax.dynamic_slice_in_dim(x, first, mix.shape[1], axis=1)
    mixed = jnp.einsum("rn,bnwc->brwc", mix, window, precision=lax.Precision.HIGHEST)
    return resize_bilinear(mixed, shape, align_corners=aligned)
