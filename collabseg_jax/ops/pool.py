"""Max pooling."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax.ops.backend import formulation


def max_pool_3x3_stride_2(x):
    """Maximum over 3x3 windows, stride 2, padded by one: torch's MaxPool2d(3, 2, padding=1).

    Where several elements of a window are the maximum, the "cpu" formulation shares the gradient
    equally among them; the "plain" one gives it to one of them, as torch does.

    Args:
      x: [B, H, W, C] float.
    Returns:
      [B, ceil(H/2), ceil(W/2), C] in x's dtype.
    """
    if x.ndim != 4:
        raise ValueError(f"max_pool_3x3_stride_2 of {x.shape}: expected [B, H, W, C]")
    if formulation() == "plain":
        # flax's, and its padding apart, because the converter to ONNX knows just that; XLA folds
        # the padding in.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")
    return _pool(x)


def _taps(x):
    """The nine arrays [B, ceil(H/2), ceil(W/2), C] that the windows look at."""
    rows, columns = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return [
        x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]


@jax.custom_vjp
def _pool(x):
    first, *rest = _taps(x)
    for tap in rest:
        first = jnp.maximum(first, tap)
    return first


def _forward(x):
    y = _pool(x)
    return y, (x, y)


def _backward(saved, g):
    x, y = saved
    batch, height, width, channels = x.shape
    rows, columns = y.shape[1:3]
    g = g.astype(jnp.float32) / sum((tap == y).astype(jnp.float32) for tap in _taps(x))
    after = ((0, 0), (0, 1), (0, 1), (0, 0))
    g = jnp.pad(g, after)
    y = jnp.pad(y, after)
    even = ((0, 0), (0, 2 * rows - height), (0, 2 * columns - width), (0, 0))
    x = jnp.pad(x, even).reshape(batch, rows, 2, columns, 2, channels)

    def phase(a, b):
        # Even rows lie in one window, odd rows in two: o and o + 1. Columns likewise.
        share = jnp.zeros((), jnp.float32)
        for i in range(a + 1):
            for j in range(b + 1):
                window = (slice(None), slice(i, i + rows), slice(j, j + columns))
                share += jnp.where(x[:, :, a, :, b] == y[window], g[window], 0)
        return share

    dx = jnp.stack([jnp.stack([phase(a, b) for b in (0, 1)], 3) for a in (0, 1)], 2)
    dx = dx.reshape(batch, 2 * rows, 2 * columns, channels)[:, :height, :width]
    return (dx.astype(x.dtype),)


_pool.defvjp(_forward, _backward)
