"""Max pooling."""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.precision import wide_dtype


def max_pool_3x3_stride_2(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows, stride 2, padding 1: torch's MaxPool2d(3, 2, padding=1).

    Where several elements of a window are the maximum, the "cpu" formulation shares the gradient
    equally among them; the "plain" one gives it to one of them, as torch does.

    Args:
      x: float [B, H, W, C].

    Returns:
      [B, ceil(H/2), ceil(W/2), C] in x's dtype.

    Raises:
      ValueError: x does not have four axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> ops.max_pool_3x3_stride_2(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
      [5.0, 7.0, 13.0, 15.0]
    """
    if x.ndim != 4:
        raise ValueError(f"max_pool_3x3_stride_2 of {x.shape}: expected [B, H, W, C]")
    if formulation() == "plain":
        # With separate padding, because the converter to ONNX knows only this form of flax's
        # max_pool; XLA fuses the padding.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
    return _pool(x)


def _taps(x: jax.Array) -> list[jax.Array]:
    """The nine arrays [B, ceil(H/2), ceil(W/2), C] that the windows read."""
    rows, columns = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]


@jax.custom_vjp
def _pool(x: jax.Array) -> jax.Array:
    first, *rest = _taps(x)
    for tap in rest:
        first = jnp.maximum(first, tap)
    return first


def _forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _pool(x)
    return y, (x, y)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    x, y = saved
    batch, height, width, channels = x.shape
    rows, columns = y.shape[1:3]
    dtype = wide_dtype(x)
    ties = reduce(add, ((tap == y).astype(dtype) for tap in _taps(x)))
    g = g.astype(dtype) / ties
    after = ((0, 0), (0, 1), (0, 1), (0, 0))
    g = jnp.pad(g, after)
    y = jnp.pad(y, after)
    even = ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0))
    x = jnp.pad(x, even).reshape(batch, rows, 2, columns, 2, channels)

    def phase(a: int, b: int) -> jax.Array:
        # Even rows are in one window, odd rows in two: o and o + 1. Columns likewise.
        share = jnp.zeros((), dtype)
        for i in range(a + 1):
            for j in range(b + 1):
                window = (slice(None), slice(i, i + rows), slice(j, j + columns))
                share += jnp.where(x[:, :, a, :, b] == y[window], g[window], 0)
        return share

    dx = jnp.stack([jnp.stack([phase(a, b) for b in (0, 1)], 3) for a in (0, 1)], 2)
    dx = dx.reshape(batch, 2 * rows, 2 * columns, channels)[:, :height, :width]
    return (dx.astype(x.dtype),)


_pool.defvjp(_forward, _backward)
