"""Depthwise 3x3 convolution."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from collabseg_jax.ops.backend import formulation

BLOCKS = 8  # of pixels, added to each other in the weight gradient


def depthwise_conv(x, kernel, *, stride=1, dilation=1):
    """Each channel convolved with its own 3x3 filter, padded by `dilation` on every side as torch.

    Args:
      x: [B, H, W, C] float.
      kernel: [3, 3, 1, C], same dtype.
      stride: step in pixels, the same in both directions.
      dilation: distance between taps in pixels; may exceed the map.
    Returns:
      [B, ceil(H/stride), ceil(W/stride), C] in x's dtype.
    """
    if x.ndim != 4 or kernel.shape != (3, 3, 1, x.shape[-1]):
        raise ValueError(
            f"depthwise_conv of x {x.shape} with kernel {kernel.shape}: "
            "expected [B, H, W, C] and [3, 3, 1, C]"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"depthwise_conv of x {x.dtype} with kernel {kernel.dtype}: must be equal")
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride {stride}, dilation {dilation}: expected at least 1")
    if formulation() == "cpu":
        return _depthwise(x, kernel, stride, dilation)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(dilation, dilation)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _taps(x, stride, dilation):
    """{(i, j): x moved under tap (i, j), float32}, without the taps that see only padding."""
    height, width = x.shape[1:3]
    pad = [dilation if dilation < size else 0 for size in (height, width)]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)))

    def starts(size, pad):
        return {i: (i - 1) * dilation + pad for i in range(3) if abs(i - 1) * dilation < size}

    return {
        (i, j): x[:, top : top + height : stride, left : left + width : stride]
        for i, top in starts(height, pad[0]).items()
        for j, left in starts(width, pad[1]).items()
    }


def _correlate(x, kernel, stride, dilation):
    """Nine shifted multiply-adds, which XLA:CPU fuses into one pass, in float32."""
    kernel = kernel.astype(jnp.float32)
    return sum(tap * kernel[i, j, 0] for (i, j), tap in _taps(x, stride, dilation).items())


# Autodiff of the sum would keep nine slices alive; this keeps the input and the kernel.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, stride, dilation):
    return _correlate(x, kernel, stride, dilation).astype(x.dtype)


def _forward(x, kernel, stride, dilation):
    return _depthwise(x, kernel, stride, dilation), (x, kernel)


def _kernel_gradient(x, g, stride, dilation):
    """[9, C] float32: for each tap and channel, x moved under it times g, summed over all pixels.

    A plain sum makes XLA:CPU write nine moved copies of x to memory first. Blocks of pixels that
    are added to each other are one loop that reads x where it lies; the rest is summed by a matrix
    product, because XLA would take that loop apart again for the sake of a reduction.
    """
    batch, rows = g.shape[:2]
    across = math.gcd(batch, BLOCKS)
    strips = min(rows, BLOCKS // across)
    height = rows // strips
    evenly = strips * height  # the rows that are left over are a strip of their own

    def total(tap):
        found = 0.0
        for starts, size in ((range(0, evenly, height), height), ([evenly], rows - evenly)):
            blocks = [
                (slice(image, image + batch // across), slice(row, row + size))
                for image in range(0, batch, batch // across)
                for row in starts
            ]
            folded = sum(tap[block] * g[block] for block in blocks).reshape(-1, x.shape[-1])
            found += jnp.ones(len(folded), jnp.float32) @ folded
        return found

    taps = _taps(x, stride, dilation)
    silent = jnp.zeros(x.shape[-1], jnp.float32)
    places = [(i, j) for i in range(3) for j in range(3)]
    return jnp.stack([total(taps[place]) if place in taps else silent for place in places])


def _backward(stride, dilation, saved, g):
    x, kernel = saved
    d_kernel = _kernel_gradient(x, g, stride, dilation)

    def spread(size, count):
        return 0, size - ((count - 1) * stride + 1), stride - 1

    gaps = [(0, 0, 0), *map(spread, x.shape[1:3], g.shape[1:3]), (0, 0, 0)]
    g = lax.pad(g, jnp.zeros((), g.dtype), gaps)
    dx = _correlate(g, kernel[::-1, ::-1], 1, dilation)
    return dx.astype(x.dtype), d_kernel.reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_forward, _backward)
