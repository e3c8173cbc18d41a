"""Depthwise 3x3 convolution."""

import math
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.precision import wide_dtype

BLOCKS = 8  # blocks of pixels that the weight gradient adds to each other


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1
) -> jax.Array:
    """Convolve each channel with its own 3x3 filter; padding is `dilation` on every side, as torch.

    Args:
      x: float [B, H, W, C].
      kernel: [3, 3, 1, C], same dtype.
      stride: step in pixels, the same in both directions.
      dilation: distance between taps in pixels; may exceed the map.

    Returns:
      [B, ceil(H/stride), ceil(W/stride), C] in x's dtype.

    Raises:
      ValueError: shapes or dtypes do not fit together, or stride or dilation is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> ops.depthwise_conv(jnp.ones((1, 5, 5, 8)), jnp.ones((3, 3, 1, 8)), stride=2).shape
      (1, 3, 3, 8)
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


def _taps(x: jax.Array, stride: int, dilation: int) -> dict[tuple[int, int], jax.Array]:
    """{(i, j): what tap (i, j) reads, float32 or wider}; taps that read only padding are absent."""
    height, width = x.shape[1:3]
    pad = [dilation if dilation < size else 0 for size in (height, width)]
    x = jnp.pad(x.astype(wide_dtype(x)), ((0, 0), (pad[0],) * 2, (pad[1],) * 2, (0, 0)))

    def starts(size: int, pad: int) -> dict[int, int]:
        return {i: (i - 1) * dilation + pad for i in range(3) if abs(i - 1) * dilation < size}

    return {
        (i, j): x[:, top : top + height : stride, left : left + width : stride]
        for i, top in starts(height, pad[0]).items()
        for j, left in starts(width, pad[1]).items()
    }


def _correlate(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """Nine shifted multiply-adds, which XLA:CPU fuses into one pass, in float32 or wider."""
    kernel = kernel.astype(wide_dtype(kernel))
    taps = _taps(x, stride, dilation)
    return reduce(add, (tap * kernel[i, j, 0] for (i, j), tap in taps.items()))


# Autodiff of the sum would keep nine slices alive; this keeps the input and the kernel.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    return _correlate(x, kernel, stride, dilation).astype(x.dtype)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel, stride, dilation), (x, kernel)


def _kernel_gradient(x: jax.Array, g: jax.Array, stride: int, dilation: int) -> jax.Array:
    """[9, C], float32 or wider: what each tap reads times g, summed over pixels.

    With a plain sum XLA:CPU first writes nine shifted copies of x to memory. Adding blocks of
    pixels to each other compiles to one loop that reads x in place. A matrix product sums what is
    left, because with a reduction there XLA would split that loop again.
    """
    batch, rows = g.shape[:2]
    across = math.gcd(batch, BLOCKS)
    strips = min(rows, BLOCKS // across)
    height = rows // strips
    evenly = strips * height  # the rows that are left over are a strip of their own

    def total(tap: jax.Array) -> jax.Array:
        sums = []
        for starts, size in ((range(0, evenly, height), height), ([evenly], rows - evenly)):
            blocks = [
                (slice(image, image + batch // across), slice(row, row + size))
                for image in range(0, batch, batch // across)
                for row in starts
            ]
            folded = reduce(add, (tap[block] * g[block] for block in blocks))
            folded = folded.reshape(-1, x.shape[-1])
            sums.append(jnp.ones(len(folded), folded.dtype) @ folded)
        return sums[0] + sums[1]

    taps = _taps(x, stride, dilation)
    unread = jnp.zeros(x.shape[-1], wide_dtype(x))
    places = [(i, j) for i in range(3) for j in range(3)]
    return jnp.stack([total(taps[place]) if place in taps else unread for place in places])


def _backward(
    stride: int, dilation: int, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    d_kernel = _kernel_gradient(x, g, stride, dilation)

    def spread(size: int, count: int) -> tuple[int, int, int]:
        return 0, size - ((count - 1) * stride + 1), stride - 1

    gaps = [(0, 0, 0), *map(spread, x.shape[1:3], g.shape[1:3]), (0, 0, 0)]
    g = lax.pad(g, jnp.zeros((), g.dtype), gaps)
    dx = _correlate(g, kernel[::-1, ::-1], 1, dilation)
    return dx.astype(x.dtype), d_kernel.reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_forward, _backward)
