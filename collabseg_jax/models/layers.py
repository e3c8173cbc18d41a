"""Layers shared by the students. Parameters are float32; `dtype` is the type of the compute.

Padding is symmetric as in torch, and layouts are NHWC / HWIO.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops

KAIMING = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
TRUNCATED = nn.initializers.truncated_normal(0.02)
CLASSIFIER = nn.initializers.normal(0.01)


def add_bias(y, bias):
    """y [..., C] plus a parameter [C] of type float32, in y's dtype.

    The addition itself is in float32: a bias's gradient is a sum over all positions in the type of
    the addition, and in bfloat16 such a sum stops growing after a few hundred terms.
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
    kernel_init: Callable = KAIMING
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, coarse=None):
        """Convolve x; before its channels come those of `coarse`, enlarged to its grid, if given.

        With `coarse` [B, h, w, C'] stride, dilation and padding must be 1, 1 and None.
        """
        channels = x.shape[-1] + (0 if coarse is None else coarse.shape[-1])
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        how = {"stride": self.stride, "dilation": self.dilation, "padding": self.padding}
        if coarse is None:
            y = ops.conv(x, kernel, **how)
        elif tuple(how.values()) == (1, 1, None):
            y = ops.conv_two_grids(coarse.astype(self.dtype), x, kernel)
        else:
            raise ValueError(f"convolution of two grids with {how}: expected 1, 1, None")
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
    def __call__(self, x):
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
    """Batch normalisation over all axes but the last, statistics in float32.

    With `batch_stats=True` the statistics are those of the batch given (global under jit on a
    sharded batch), and the running averages move by 1 - `momentum` if their collection is
    mutable, else they are left alone. The running variance is the unbiased one, as in torch.
    Source: Ioffe & Szegedy 2015.
    """

    momentum: float = 0.9
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """Normalise x [..., C]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if batch_stats:
            axes = tuple(range(x.ndim - 1))
            x32 = x.astype(jnp.float32)
            mean = x32.mean(axes)
            var = jnp.maximum(0.0, (x32**2).mean(axes) - mean**2)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                n = x.size // x.shape[-1]
                new = {"mean": mean, "var": var * (n / max(1, n - 1))}
                for name, ref in (("mean", running_mean), ("var", running_var)):
                    ref.value = self.momentum * ref.value + (1 - self.momentum) * new[name]
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * jax.lax.rsqrt(var + self.eps)
        offset = bias - mean * gain
        return (x.astype(jnp.float32) * gain + offset).astype(self.dtype)


def block_class(block, remat: bool):
    """A block, or one whose insides are worked out again on the way back instead of kept.

    Args:
      block: a module called with features and one flag, both positional.
    """
    return nn.remat(block, static_argnums=(2,)) if remat else block


class ConvNorm(nn.Module):
    """Convolution, BatchNorm (`norm` makes it) and an activation (None for none)."""

    features: int
    size: int = 1
    stride: int = 1
    dilation: int = 1
    activation: Callable | None = nn.relu
    dtype: Any = jnp.float32
    norm: Callable = BatchNorm

    @nn.compact
    def __call__(self, x, coarse=None, *, batch_stats: bool):
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
    activation: Callable = nn.relu
    dtype: Any = jnp.float32
    norm: Callable = BatchNorm

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """[B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), C]."""
        x = DepthwiseConv(self.stride, self.dilation, dtype=self.dtype, name="conv")(x)
        x = self.norm(dtype=self.dtype, name="norm")(x, batch_stats=batch_stats)
        return self.activation(x)


class LayerNorm(nn.Module):
    """Layer normalisation over channels, in float32."""

    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Normalise x [..., C]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + self.eps)
        return (centred * inverse * scale + bias).astype(self.dtype)


def linear(features: int, dtype, name: str | None = None) -> Conv:
    """A 1x1 convolution with bias, initialised as transformers are (truncated normal, 0.02)."""
    return Conv(features, use_bias=True, kernel_init=TRUNCATED, dtype=dtype, name=name)


def drop_path(x, rate: float, rng):
    """Stochastic depth: zero the whole residual branch of a sample with probability `rate`.

    Source: Huang et al. 2016; the kept branches are scaled by 1 / (1 - rate).
    """
    keep = jax.random.bernoulli(rng, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return x * (keep / (1.0 - rate)).astype(x.dtype)


def dropout(x, rate: float, rng, *, kind: str):
    """Dropout of [B, h, w, C]: of whole "channel"s (torch Dropout2d) or of each "element"."""
    shape = (x.shape[0], 1, 1, x.shape[-1]) if kind == "channel" else x.shape
    keep = jax.random.bernoulli(rng, 1.0 - rate, shape)
    return x * (keep / (1.0 - rate)).astype(x.dtype)
