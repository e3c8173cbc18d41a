"""Bilinear resizing."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.precision import wide_dtype

SCOPE = "resize"  # name scope of the equations of a resize; those who count MACs skip it


def resize_bilinear(
    x: jax.Array, shape: Sequence[int], *, align_corners: bool = False
) -> jax.Array:
    """Bilinear interpolation without antialiasing; equals torch's F.interpolate(mode="bilinear").

    Output o reads the input at (o + 0.5) * in / out - 0.5, clamped to the map; with
    `align_corners`, at o * (in - 1) / (out - 1), so that the corners stay where they are.

    Args:
      x: float [B, H, W, C].
      shape: (H', W').
      align_corners: which of the two; False is half-pixel centres.

    Returns:
      [B, H', W', C] in x's dtype; x itself when the shape is the same.

    Raises:
      ValueError: x is no float [B, H, W, C], or `shape` is not two sizes of at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> ops.resize_bilinear(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
      [0.0, 1.0, 3.0, 4.0]
    """
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"resize_bilinear of {x.dtype}{x.shape}: expected float [B, H, W, C]")
    shape = tuple(shape)
    if len(shape) != 2 or any(n < 1 for n in shape):
        raise ValueError(f"resize_bilinear to {shape}: expected (H, W), both at least 1")
    if x.shape[1:3] == shape:
        return x
    with jax.named_scope(SCOPE):
        if formulation() == "plain":
            full = (x.shape[0], *shape, x.shape[3])
            if align_corners:
                return _aligned(x, full)
            return jax.image.resize(x, full, "bilinear", antialias=False)
        y = _resize_axis(x.astype(wide_dtype(x)), 2, shape[1], align_corners)
        return _resize_axis(y, 1, shape[0], align_corners).astype(x.dtype)


def _aligned(x: jax.Array, full: tuple[int, ...]) -> jax.Array:
    """With aligned corners, as two products with interpolation matrices.

    `jax.image` cannot do it. The sizes may be symbolic (export), so NumPy cannot make the matrices.
    """
    dtype = wide_dtype(x)

    def matrix(size: int, length: int) -> jax.Array:
        last, end = (jnp.asarray(n, dtype) - 1 for n in (length, size))
        step = last / jnp.maximum(end, 1)
        out, into = (jnp.arange(n, dtype=dtype) for n in (size, length))
        return jax.nn.relu(1 - jnp.abs(out[:, None] * step - into))

    y = jnp.einsum(
        "oh,bhwc,pw->bopc",
        matrix(full[1], x.shape[1]),
        x.astype(dtype),
        matrix(full[2], x.shape[2]),
        precision=lax.Precision.HIGHEST,
    )
    return y.astype(x.dtype)


def _resize_axis(x: jax.Array, axis: int, size: int, align_corners: bool) -> jax.Array:
    length = x.shape[axis]
    if length == size:
        return x
    if size % length == 0 and not align_corners:
        return _enlarge(x, axis, size // length)
    return _interpolate(x, axis, length, size, align_corners)


def _enlarge(x: jax.Array, axis: int, factor: int) -> jax.Array:
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


def _neighbours(
    length: int, size: int, align_corners: bool, dtype: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two input positions around each output, and the share of the second."""
    if align_corners:
        at = np.arange(size) * ((length - 1) / max(1, size - 1))
    else:
        at = (np.arange(size) + 0.5) * (length / size) - 0.5
    at = np.clip(at, 0, length - 1)
    low = np.floor(at).astype(np.int32)
    return low, np.minimum(low + 1, length - 1), (at - low).astype(dtype)


def interpolation_matrix(
    length: int, size: int, *, align_corners: bool, dtype: Any = np.float32
) -> np.ndarray:
    """[size, length]: the weight of each input in each output, along one axis."""
    low, high, share = _neighbours(length, size, align_corners, dtype)
    matrix = np.zeros((size, length), dtype)
    matrix[np.arange(size), low] = 1 - share
    matrix[np.arange(size), high] += share
    return matrix


# Reading two neighbours is the fast way forward. Its transpose is a scatter, which is slow, so the
# backward pass is a product with the interpolation matrix.
@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _interpolate(x: jax.Array, axis: int, length: int, size: int, align_corners: bool) -> jax.Array:
    below, above, share = _neighbours(length, size, align_corners, x.dtype)
    share = share.reshape(size, *[1] * (3 - axis))
    low, high = (x.take(at, axis, mode="clip") for at in (below, above))
    return low * (1 - share) + high * share


def _forward(
    x: jax.Array, axis: int, length: int, size: int, align_corners: bool
) -> tuple[jax.Array, None]:
    return _interpolate(x, axis, length, size, align_corners), None


def _backward(
    axis: int, length: int, size: int, align_corners: bool, _: None, g: jax.Array
) -> tuple[jax.Array]:
    matrix = interpolation_matrix(length, size, align_corners=align_corners, dtype=g.dtype)
    return (jnp.einsum("on,bowc->bnwc" if axis == 1 else "on,bhoc->bhnc", matrix, g),)


_interpolate.defvjp(_forward, _backward)
