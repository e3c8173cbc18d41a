"""Dense k x k convolution."""

import math
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.precision import wide_dtype

# The weight gradient on CPUs. With Cin * Cout >= WIDE, one matmul per tap is as fast as XLA:CPU's
# own gradient or faster. Below that, XLA's own is fast while its input fits in a core's cache: it
# gets pieces of the map of about PIECE bytes, but at most PIECES of them.
WIDE = 256 * 256
PIECE = 2**21
PIECES = 16


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
) -> jax.Array:
    """Convolve as torch's Conv2d without bias.

    Args:
      x: float [B, H, W, Cin].
      kernel: [k, k, Cin, Cout], same dtype.
      stride: step in pixels, the same in both directions.
      dilation: distance between taps in pixels.
      padding: zeros on every side, in pixels; None is the symmetric dilation * (k - 1) / 2, for
        odd k.

    Returns:
      [B, H', W', Cout] in x's dtype, H' = (H + 2 padding - dilation (k - 1) - 1) // stride + 1.

    Raises:
      ValueError: shapes or dtypes do not fit together, or the map is smaller than the kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> ops.conv(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 8)), stride=2).shape
      (1, 2, 2, 8)
    """
    _check(x, kernel)
    if stride < 1 or dilation < 1:
        raise ValueError(f"stride {stride}, dilation {dilation}: expected at least 1")
    size = kernel.shape[0]
    if padding is None:
        if size % 2 == 0:
            raise ValueError(f"kernel {kernel.shape}: an even size needs an explicit padding")
        padding = dilation * (size - 1) // 2
    reach = dilation * (size - 1) + 1
    if any(n + 2 * padding < reach for n in x.shape[1:3]):  # min() cannot compare symbolic sizes
        raise ValueError(
            f"map {x.shape[1:3]} with padding {padding}: expected at least {reach}, the kernel's"
        )
    if formulation() == "plain":
        return _plain(x, kernel, stride, dilation, padding)
    if padding == 0 and (size == 1 or (size == stride and dilation == 1)):
        return _patchwise(x, kernel, stride)
    return _overlapping(x, kernel, stride, dilation, padding)


def _check(x: jax.Array, kernel: jax.Array) -> None:
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[:3] != (*kernel.shape[:1] * 2, x.shape[-1]):
        raise ValueError(
            f"conv of x {x.shape} with kernel {kernel.shape}: "
            "expected [B, H, W, Cin] and [k, k, Cin, Cout]"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"conv of x {x.dtype} with kernel {kernel.dtype}: must be equal")


def _plain(
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    dilation: int,
    padding: int | tuple[int, int],
) -> jax.Array:
    """The standard convolution; `padding` in pixels, the same on every side or (rows, columns)."""
    rows, columns = padding if isinstance(padding, tuple) else (padding, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(rows, rows), (columns, columns)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _patchwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Windows that do not overlap (or single pixels): one matrix product.

    The rows are flattened because XLA:CPU is faster with a product over one axis than over three,
    most of all in the weight gradient.
    """
    size, _, cin, cout = kernel.shape
    if size == 1:
        x = x[:, ::stride, ::stride]
        batch, rows, columns, _ = x.shape
    else:
        batch, rows, columns = x.shape[0], x.shape[1] // size, x.shape[2] // size
        x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, cin)
        x = x.transpose(0, 1, 3, 2, 4, 5)
    y = x.reshape(batch * rows * columns, size * size * cin) @ kernel.reshape(-1, cout)
    return y.reshape(batch, rows, columns, cout)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _overlapping(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int
) -> jax.Array:
    """The plain convolution, with a weight gradient of its own."""
    return _plain(x, kernel, stride, dilation, padding)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, kernel, stride, dilation, padding), (x, kernel)


def _backward(
    stride: int, dilation: int, padding: int, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, pull = jax.vjp(lambda x: _plain(x, kernel, stride, dilation, padding), x)
    (dx,) = pull(g)
    gradient = _by_taps if kernel.shape[2] * kernel.shape[3] >= WIDE else _by_pieces
    d_kernel = gradient(x, g, kernel, stride, dilation, padding)
    return dx, d_kernel.astype(kernel.dtype)


def _by_taps(
    x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int
) -> jax.Array:
    """The weight gradient as one matrix product per tap, in float32 or wider."""
    rows, columns = (n * stride for n in g.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    g = g.reshape(-1, g.shape[-1])

    def tap(i: int, j: int) -> jax.Array:
        top, left = i * dilation, j * dilation
        moved = x[:, top : top + rows : stride, left : left + columns : stride]
        moved = moved.reshape(-1, x.shape[-1])
        return jnp.matmul(moved.T, g, preferred_element_type=wide_dtype(x))

    size = kernel.shape[0]
    d_kernel = jnp.stack([tap(i, j) for i in range(size) for j in range(size)])
    return d_kernel.reshape(kernel.shape)


def _by_pieces(
    x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int, dilation: int, padding: int
) -> jax.Array:
    """The weight gradient as a sum over groups of images, or strips of one; float32 or wider."""
    batch, rows, columns, cout = g.shape
    image = rows * columns * (stride**2 * x.shape[-1] + cout) * x.dtype.itemsize
    images = max(1, PIECE // image, math.ceil(batch / PIECES))
    strips = min(math.ceil(image / PIECE), max(1, PIECES // batch))
    height = math.ceil(rows / strips)
    reach = dilation * (kernel.shape[0] - 1) + 1
    if strips > 1:
        x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0)))

    def one(first: int, top: int) -> jax.Array:
        part, seen = g[first : first + images], x[first : first + images]
        if strips > 1:
            part = part[:, top : top + height]
            last = (top + part.shape[1] - 1) * stride
            seen = seen[:, top * stride : last + reach]
        pads = (0 if strips > 1 else padding, padding)
        _, pull = jax.vjp(lambda kernel: _plain(seen, kernel, stride, dilation, pads), kernel)
        return pull(part)[0].astype(wide_dtype(x))

    starts = ((i, top) for i in range(0, batch, images) for top in range(0, rows, height))
    return reduce(add, (one(i, top) for i, top in starts))


_overlapping.defvjp(_forward, _backward)
