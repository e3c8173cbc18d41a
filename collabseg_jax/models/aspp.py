"""Atrous spatial pyramid pooling (ASPP), and the 3x3 convolutions of DeepLabV3+'s head."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import BatchNorm, ConvNorm, DepthwiseConv, DepthwiseNorm, dropout

WIDTH = 256  # channels of ASPP and decoder


class Conv3x3(nn.Module):
    """A 3x3 convolution with norm and ReLU: dense, or depthwise and then pointwise.

    Attributes:
      features: channels of the output.
      dilation: distance between taps in cells.
      separable: depthwise and pointwise instead of dense.
      inner_norm: a norm and a ReLU between the two.
      align_corners: how a coarse map is enlarged.
      norm: makes the BatchNorms.
      dtype: compute dtype.
    """

    features: int
    dilation: int = 1
    separable: bool = True
    inner_norm: bool = True
    align_corners: bool = False
    norm: Callable[..., Any] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, coarse: jax.Array | None = None, *, batch_stats: bool
    ) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, features].

        `coarse` [B, h, w, C'] is enlarged to x's grid, and its channels come before x's.
        """
        options: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        if coarse is not None and (self.separable or self.align_corners):
            coarse = ops.resize_bilinear(coarse, x.shape[1:3], align_corners=self.align_corners)
            x, coarse = jnp.concatenate([coarse, x], axis=-1), None
        if not self.separable:
            dense = ConvNorm(self.features, 3, 1, self.dilation, name="dense", **options)
            return dense(x, coarse, batch_stats=batch_stats)
        if self.inner_norm:
            depthwise = DepthwiseNorm(1, self.dilation, name="depthwise", **options)
            x = depthwise(x, batch_stats=batch_stats)
        else:
            x = DepthwiseConv(1, self.dilation, dtype=self.dtype, name="depthwise")(x)
        return ConvNorm(self.features, name="pointwise", **options)(x, batch_stats=batch_stats)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three atrous 3x3, image pooling; then 1x1.

    Attributes:
      rates: dilations of the three atrous convolutions, in cells.
      atrous: makes the 3x3 convolutions, from (features, dilation).
      point: makes the 1x1 convolutions, from (features).
      dropout: rate of element-wise dropout after the last 1x1.

    Source:
      Chen et al. 2017 (DeepLabV3), section 3.3.
    """

    rates: tuple[int, ...]
    atrous: Callable[..., Any] = Conv3x3
    point: Callable[..., Any] = ConvNorm
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, batch_stats: bool, train: bool = False) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, 256]."""
        branches = [self.point(WIDTH, name="point")(x, batch_stats=batch_stats)]
        for i, rate in enumerate(self.rates):
            branch = self.atrous(WIDTH, rate, name=f"atrous{i + 1}")
            branches.append(branch(x, batch_stats=batch_stats))
        wide = ops.wide_dtype(x)
        pooled = x.astype(wide).mean((1, 2), keepdims=True).astype(x.dtype)
        pooled = self.point(WIDTH, name="pool")(pooled, batch_stats=batch_stats)
        # In float32, so that its gradient, a sum over all positions, is summed in float32.
        pooled = jnp.broadcast_to(pooled.astype(wide), branches[0].shape)
        branches.append(pooled.astype(x.dtype))
        x = jnp.concatenate(branches, axis=-1)
        x = self.point(WIDTH, name="project")(x, batch_stats=batch_stats)
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, self.make_rng("dropout"), kind="element")
        return x
