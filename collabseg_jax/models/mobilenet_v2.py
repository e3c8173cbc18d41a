"""MobileNetV2 encoder (width 1.0) with a chosen output stride."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax.models.layers import BatchNorm, ConvNorm, DepthwiseNorm, block_class

# Of each stage: (expansion, channels, blocks, stride of the first block), torchvision's table
# split where docs/method.md splits `features`: [:4], [4:7], [7:14], [14:18].
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
LAST_CONV = 1280


def stage_channels(last_conv: bool) -> tuple[int, ...]:
    """Channels of the four stages."""
    channels = tuple(groups[-1][1] for groups in STAGES)
    return (*channels[:3], LAST_CONV) if last_conv else channels


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; a shortcut where the shapes agree."""

    features: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    norm: Callable[..., Any] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, batch_stats: bool) -> jax.Array:
        """[B, h, w, C] -> [B, h/stride, w/stride, features]."""
        options: dict[str, Any] = {"dtype": self.dtype, "norm": self.norm}
        y = x
        if self.expansion != 1:
            y = ConvNorm(
                self.expansion * x.shape[-1], activation=nn.relu6, name="expand", **options
            )(y, batch_stats=batch_stats)
        y = DepthwiseNorm(self.stride, self.dilation, nn.relu6, name="depthwise", **options)(
            y, batch_stats=batch_stats
        )
        y = ConvNorm(self.features, activation=None, name="project", **options)(
            y, batch_stats=batch_stats
        )
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """`features` of torchvision's MobileNetV2 in four stages of 24, 32, 96, 320 channels.

    Attributes:
      output_stride: 8, 16 or 32. A block that would stride beyond it does not stride, and the
        blocks after it are dilated.
      dilate_first: that block itself is dilated too (smp).
      last_conv: F4 includes `features[18]`, a 1x1 convolution to 1280 channels (smp).
      norm: makes the BatchNorms.
      dtype: compute dtype.
      remat: recompute the activations of the blocks in the backward pass.

    Source:
      Sandler et al. 2018, table 2.
    """

    output_stride: int = 16
    dilate_first: bool = False
    last_conv: bool = False
    norm: Callable[..., Any] = BatchNorm
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Build stem and stages; blocks carry torchvision's index in their name."""
        conv = functools.partial(ConvNorm, activation=nn.relu6, dtype=self.dtype, norm=self.norm)
        self.stem = conv(32, 3, 2)
        block = block_class(InvertedResidual, self.remat)
        stages, index, stride, dilation = [], 1, 2, 1
        for groups in STAGES:
            blocks = []
            for expansion, channels, count, first in groups:
                for j in range(count):
                    step, rate = (first if j == 0 else 1), dilation
                    if step == 2 and stride >= self.output_stride:
                        step, dilation = 1, 2 * dilation
                        rate = dilation if self.dilate_first else rate
                    stride *= step
                    blocks.append(
                        block(
                            channels,
                            expansion,
                            step,
                            rate,
                            self.norm,
                            self.dtype,
                            name=f"features{index}",
                        )
                    )
                    index += 1
            stages.append(blocks)
        if self.last_conv:
            self.last = conv(LAST_CONV, name=f"features{index}")
        self.stages = stages

    def stage(self, i: int, x: jax.Array, *, batch_stats: bool) -> jax.Array:
        """Stage i of 1..4; stage 1 takes images and includes the stem."""
        if i == 1:
            x = self.stem(x, batch_stats=batch_stats)
        for block in self.stages[i - 1]:
            x = block(x, batch_stats)
        if i == 4 and self.last_conv:
            x = self.last(x, batch_stats=batch_stats)
        return x
