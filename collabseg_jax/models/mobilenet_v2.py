"""MobileNetV2 encoder (width 1.0) with a chosen output stride."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax.models.layers import ConvNorm, DepthwiseNorm

# Of each stage: (expansion, channels, blocks, stride of the first block), torchvision's table
# split where docs/method.md splits `features`: [:4], [4:7], [7:14], [14:18].
STAGES = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
STAGE_CHANNELS = tuple(groups[-1][1] for groups in STAGES)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; a shortcut where the shapes agree."""

    features: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """[B, h, w, C] -> [B, h/stride, w/stride, features]."""
        y = x
        if self.expansion != 1:
            y = ConvNorm(
                self.expansion * x.shape[-1],
                activation=nn.relu6,
                dtype=self.dtype,
                name="expand",
            )(y, batch_stats=batch_stats)
        y = DepthwiseNorm(self.stride, self.dilation, nn.relu6, dtype=self.dtype, name="depthwise")(
            y, batch_stats=batch_stats
        )
        y = ConvNorm(self.features, activation=None, dtype=self.dtype, name="project")(
            y, batch_stats=batch_stats
        )
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """`features[:18]` of torchvision's MobileNetV2 in four stages of 24, 32, 96, 320 channels.

    Attributes:
      output_stride: 8, 16 or 32; a block that would stride past it is dilated instead from the
        next block on.
    Source: Sandler et al. 2018, table 2.
    """

    output_stride: int = 16
    dtype: Any = jnp.float32

    def setup(self):
        """Build stem and stages; blocks carry torchvision's index in their name."""
        self.stem = ConvNorm(32, 3, 2, activation=nn.relu6, dtype=self.dtype)
        stages, index, stride, dilation = [], 1, 2, 1
        for groups in STAGES:
            blocks = []
            for expansion, channels, count, first in groups:
                for j in range(count):
                    step, rate = (first if j == 0 else 1), dilation
                    if step == 2 and stride >= self.output_stride:
                        step, dilation = 1, 2 * dilation
                    stride *= step
                    blocks.append(
                        InvertedResidual(
                            channels, expansion, step, rate, self.dtype, name=f"features{index}"
                        )
                    )
                    index += 1
            stages.append(blocks)
        self.stages = stages

    def stage(self, i: int, x, *, batch_stats: bool):
        """Stage i of 1..4; stage 1 takes images and includes the stem."""
        if i == 1:
            x = self.stem(x, batch_stats=batch_stats)
        for block in self.stages[i - 1]:
            x = block(x, batch_stats=batch_stats)
        return x
