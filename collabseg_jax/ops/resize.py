"""Bilinear resizing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from collabseg_jax.ops.backend import formulation


def resize_bilinear(x, shape):
    """Bilinear interpolation at half-pixel centres, without antialiasing.

    Equals torch's F.interpolate(mode="bilinear", align_corners=False): output o reads the input at
    (o + 0.5) * in / out - 0.5, held within the map.

    Args:
      x: [B, H, W, C] float.
      shape: (H', W').
    Returns:
      [B, H', W', C] in x's dtype; x itself when the shape is the same.
    """
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"resize_bilinear of {x.dtype}{x.shape}: expected float [B, H, W, C]")
    shape = tuple(shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"resize_bilinear to {shape}: expected (H, W), both at least 1")
    if x.shape[1:3] == shape:
        return x
    if formulation() == "plain":
        full = (x.shape[0], *shape, x.shape[3])
        return jax.image.resize(x, full, "bilinear", antialias=False)
    y = _resize_axis(x.astype(jnp.float32), 2, shape[1])
    return _resize_axis(y, 1, shape[0]).astype(x.dtype)


def _resize_axis(x, axis, size):
    length = x.shape[axis]
    if length == size:
        return x
    if size % length == 0:
        return _enlarge(x, axis, size // length)
    return _interpolate(x, axis, length, size)


def _enlarge(x, axis, factor):
    """Polyphase: every factor-th output has the same two weights, so each phase is one blend."""
    length = x.shape[axis]
    cut = partial(lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([cut(0, 1), cut(0, length - 1)], axis)
    after = jnp.concatenate([cut(1, length), cut(length - 1, length)], axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        other = before if offset < 0 else after
        phases.append(x * (1 - abs(offset)) + other * abs(offset))
    shape = (*x.shape[:axis], length * factor, *x.shape[axis + 1 :])
    return jnp.stack(phases, axis + 1).reshape(shape)


def _neighbours(length, size):
    """The two input positions each output lies between, and the share of the second."""
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    low = np.floor(at).astype(np.int32)
    return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)


# Reading two neighbours is the fast way forward; its transpose is a scatter, so the way back is a
# product with the interpolation matrix.
@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _interpolate(x, axis, length, size):
    low, high, share = _neighbours(length, size)
    share = share.reshape(size, *[1] * (3 - axis))
    low, high = (x.take(at, axis, mode="clip") for at in (low, high))
    return low * (1 - share) + high * share


def _forward(x, axis, length, size):
    return _interpolate(x, axis, length, size), None


def _backward(axis, length, size, _, g):
    low, high, share = _neighbours(length, size)
    matrix = np.zeros((size, length), np.float32)
    matrix[np.arange(size), low] = 1 - share
    matrix[np.arange(size), high] += share
    return (jnp.einsum("on,bowc->bnwc" if axis == 1 else "on,bhoc->bhnc", matrix, g),)


_interpolate.defvjp(_forward, _backward)
