"""Mix Transformer (MiT) encoders."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import (
    Conv,
    DepthwiseConv,
    LayerNorm,
    block_class,
    drop_path,
    linear,
)

# name: (channels of the stages, blocks in each stage)
MITS = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
ATTENTION_HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
EMBED_EPS = 1e-5  # LayerNorm of patch embedding and spatial reduction, in all implementations


class Attention(nn.Module):
    """Multi-head self-attention whose keys and values come from a spatially reduced map.

    Attributes:
      heads: number of heads.
      reduction: factor by which each side of the map is reduced.
      dtype: compute dtype.
    """

    heads: int
    reduction: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        batch, height, width, channels = x.shape
        source = x
        if self.reduction > 1:
            r = self.reduction
            source = Conv(
                channels, r, r, padding=0, use_bias=True, dtype=self.dtype, name="reduce"
            )(x)
            source = LayerNorm(EMBED_EPS, self.dtype, name="reduce_norm")(source)

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(batch, -1, self.heads, channels // self.heads)

        query = linear(channels, self.dtype, "query")(x)
        key = linear(channels, self.dtype, "key")(source)
        value = linear(channels, self.dtype, "value")(source)
        y = ops.attention(heads(query), heads(key), heads(value))
        y = y.reshape(batch, height, width, channels)
        return linear(channels, self.dtype, "out")(y)


class MixFFN(nn.Module):
    """Linear, depthwise 3x3 (which carries the position), GELU, linear."""

    expansion: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""
        y = linear(self.expansion * x.shape[-1], self.dtype, "fc1")(x)
        y = DepthwiseConv(use_bias=True, dtype=self.dtype, name="depthwise")(y)
        y = ops.gelu(y)
        return linear(x.shape[-1], self.dtype, "fc2")(y)


class Block(nn.Module):
    """Pre-norm attention and Mix-FFN, each a residual branch with stochastic depth."""

    heads: int
    reduction: int
    drop_path: float
    eps: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop: bool) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C]."""

        def branch(y: jax.Array) -> jax.Array:
            if not drop or self.drop_path == 0:
                return y
            return drop_path(y, self.drop_path, self.make_rng("dropout"))

        y = LayerNorm(self.eps, self.dtype, name="norm1")(x)
        x = x + branch(Attention(self.heads, self.reduction, self.dtype, name="attention")(y))
        y = LayerNorm(self.eps, self.dtype, name="norm2")(x)
        return x + branch(MixFFN(dtype=self.dtype, name="ffn")(y))


class Stage(nn.Module):
    """Overlapping patch merging, blocks, norm."""

    index: int  # 0..3
    channels: int
    drop_paths: tuple[float, ...]
    eps: float
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, drop: bool) -> jax.Array:
        """[B, h, w, C'] -> [B, ceil(h/s), ceil(w/s), channels], s = 4 in stage 0, else 2."""
        size, stride = (7, 4) if self.index == 0 else (3, 2)
        x = Conv(self.channels, size, stride, use_bias=True, dtype=self.dtype, name="patch_embed")(
            x
        )
        x = LayerNorm(EMBED_EPS, self.dtype, name="patch_norm")(x)
        block = block_class(Block, self.remat)
        for j, rate in enumerate(self.drop_paths):
            x = block(
                ATTENTION_HEADS[self.index],
                REDUCTIONS[self.index],
                rate,
                self.eps,
                self.dtype,
                name=f"block{j + 1}",
            )(x, drop)
        return LayerNorm(self.eps, self.dtype, name="norm")(x)


class MixTransformer(nn.Module):
    """The hierarchical encoder of SegFormer, strides 4, 8, 16, 32.

    Attributes:
      variant: a key of `MITS`.
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in the first.
      eps: of the LayerNorms in blocks and after stages; see `SegFormer.layer_norm_eps`.
      dtype: compute dtype.
      remat: recompute the activations of the blocks in the backward pass.

    Source:
      Xie et al. 2021, section 3.1 and table 6.
    """

    variant: str
    drop_path: float = 0.1
    eps: float = 1e-5
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Build the stages."""
        channels, depths = MITS[self.variant]
        last = max(1, sum(depths) - 1)
        rates = [self.drop_path * i / last for i in range(sum(depths))]
        stages, start = [], 0
        for i, depth in enumerate(depths):
            stages.append(
                Stage(
                    i,
                    channels[i],
                    tuple(rates[start : start + depth]),
                    self.eps,
                    self.dtype,
                    self.remat,
                    name=f"stage{i + 1}",
                )
            )
            start += depth
        self.stages = stages

    def stage(self, i: int, x: jax.Array, *, drop: bool) -> jax.Array:
        """Stage i of 1..4; stage 1 takes images."""
        return self.stages[i - 1](x, drop=drop)
