"""Layers shared by the students. Parameters are float32; `dtype` is the compute dtype.

Padding is symmetric as in torch, and layouts are NHWC / HWIO.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops

KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
TRUNCATED = nn.initializers.truncated_normal(0.02)
CLASSIFIER = nn.initializers.normal(0.01)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Add a float32 parameter [C] to y [..., C]; the result has y's dtype.

    The addition itself is in float32: a bias's gradient is a sum over all positions in the dtype
    of the addition, and in bfloat16 such a sum stops growing after a few hundred terms.
    """
    return (y + bias).astype(y.dtype)


class Conv(nn.Module):
    """Dense k x k convolution, [B, H, W, Cin] -> [B, ceil(H/stride), ceil(W/stride), features].

    `padding` None is the symmetric dilation * (k - 1) // 2.
    """

    features: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = KAIMING
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, coarse: jax.Array | None = None) -> jax.Array:
        """Convolve x. If given, `coarse` is enlarged to x's grid and its channels come before x's.

        With `coarse` [B, h, w, C'] stride, dilation and padding must be 1, 1 and None.
        """
        channels = x.shape[-1] + (0 if coarse is None else coarse.shape[-1])
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if coarse is None:
            y = ops.conv(
                x, kernel, stride=self.stride, dilation=self.dilation, padding=self.padding
            )
        elif (self.stride, self.dilation, self.padding) == (1, 1, None):
            y = ops.conv_two_grids(coarse.astype(self.dtype), x, kernel)
        else:
            raise ValueError(
                f"convolution of two grids with stride {self.stride}, dilation {self.dilation}, "
                f"padding {self.padding}: expected 1, 1, None"
            )
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (self.features,)))
        return y


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution, one filter a channel."""

    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve x [B, H, W, C]."""
        channels = x.shape[-1]
        # Fan-out of a depthwise filter is its 9 taps, not 9 * C as the kernel's shape suggests.
        init = nn.initializers.normal((2.0 / 9.0) ** 0.5)
        kernel = self.param("kernel", init, (3, 3, 1, channels)).astype(self.dtype)
        y = ops.depthwise_conv(
            x.astype(self.dtype), kernel, stride=self.stride, dilation=self.dilation
        )
        if self.use_bias:
            y = add_bias(y, self.param("bias", nn.initializers.zeros, (channels,)))
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with statistics in float32 or wider.

    With `batch_stats=True` the statistics are those of the batch given (global under jit on a
    sharded batch), and the running averages move by 1 - `momentum` if their collection is mutable.
    The running variance is the unbiased one, as in torch (flax's BatchNorm keeps the biased one).

    Source:
      Ioffe and Szegedy 2015.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, batch_stats: bool) -> jax.Array:
        """Normalise x [..., C]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        dtype = ops.wide_dtype(x)
        if batch_stats:
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(dtype)
            mean = wide.mean(axes)
            var = jnp.maximum(0.0, (wide**2).mean(axes) - mean**2)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                n = x.size // x.shape[-1]
                new = {"mean": mean, "var": var * (n / max(1, n - 1))}
                for name, ref in (("mean", running_mean), ("var", running_var)):
                    ref.value = self.momentum * ref.value + (1 - self.momentum) * new[name]
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.eps)
        offset = bias - mean * gain
        # Not `wide`: one cast for both uses would change the bits of a bfloat16 gradient.
        return (x.astype(dtype) * gain + offset).astype(self.dtype)


def block_class(block: type[nn.Module], remat: bool) -> Callable[..., Any]:
    """The class itself, or one whose activations are recomputed in the backward pass.

    Args:
      block: a module class whose instances are called with features and one flag, positionally.
      remat: whether to recompute the activations instead of keeping them.

    Returns:
      A class with the same attributes.
    """
    return nn.remat(block, static_argnums=(2,)) if remat else block


class ConvNorm(nn.Module):
    """Convolution, BatchNorm (`norm` makes it) and an activation (None for none)."""

    features: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    dtype: Any = jnp.float32
    norm: Callable[..., Any] = BatchNorm

    @nn.compact
    def __call__(
        self, x: jax.Array, coarse: jax.Array | None = None, *, batch_stats: bool
    ) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), features]; `coarse` as in Conv."""
        x = Conv(
            self.features, self.size, self.stride, self.dilation, dtype=self.dtype, name="conv"
        )(x, coarse)
        x = self.norm(dtype=self.dtype, name="norm")(x, batch_stats=batch_stats)
        return x if self.activation is None else self.activation(x)


class DepthwiseNorm(nn.Module):
    """Depthwise 3x3 convolution, BatchNorm and an activation."""

    stride: int = 1
    dilation: int = 1
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dtype: Any = jnp.float32
    norm: Callable[..., Any] = BatchNorm

    @nn.compact
    def __call__(self, x: jax.Array, *, batch_stats: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), C]."""
        x = DepthwiseConv(self.stride, self.dilation, dtype=self.dtype, name="conv")(x)
        x = self.norm(dtype=self.dtype, name="norm")(x, batch_stats=batch_stats)
        return self.activation(x)


# Over channels, in float32 or wider: (eps, dtype of the result, name=...). The fast variance, a
# difference of two means, is 0 where the mean is large.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)


def linear(features: int, dtype: Any, name: str | None = None) -> Conv:
    """A 1x1 convolution with bias, initialised as transformers are (truncated normal, 0.02)."""
    return Conv(features, use_bias=True, kernel_init=TRUNCATED, dtype=dtype, name=name)


def drop_path(x: jax.Array, rate: float, rng: jax.Array) -> jax.Array:
    """Stochastic depth: set the whole residual branch of a sample to 0 with probability `rate`.

    Args:
      x: float [B, ...].
      rate: at least 0 and below 1.
      rng: key.

    Returns:
      An array of x's shape and dtype; the branches that are kept are scaled by 1 / (1 - rate).

    Source:
      Huang et al. 2016.
    """
    return _drop(x, rate, rng, shared=range(1, x.ndim))


def dropout(x: jax.Array, rate: float, rng: jax.Array, *, kind: str) -> jax.Array:
    """Drop whole channels of [B, h, w, C] (torch Dropout2d) or single elements (torch Dropout).

    Args:
      x: float [B, h, w, C].
      rate: probability of a drop, at least 0 and below 1.
      rng: key.
      kind: "channel" or "element".

    Returns:
      An array of x's shape and dtype; what is kept is scaled by 1 / (1 - rate).
    """
    return _drop(x, rate, rng, shared=(1, 2) if kind == "channel" else ())


def _drop(x: jax.Array, rate: float, rng: jax.Array, *, shared: Iterable[int]) -> jax.Array:
    """Drop with one draw for all places along the axes `shared`."""
    module = nn.Dropout(rate, broadcast_dims=tuple(shared), deterministic=False, parent=None)
    dropped: Any = module.apply({}, x, rng=rng)
    return dropped
