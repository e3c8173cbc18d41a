"""ResNet encoders with a chosen output stride."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import ConvNorm

# name: (block, blocks in each stage)
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}


def stage_channels(variant: str) -> tuple[int, ...]:
    """Channels of the four stages of the ResNet of that name."""
    expansion = 1 if RESNETS[variant][0] == "basic" else 4
    return tuple(c * expansion for c in (64, 128, 256, 512))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """[B, h, w, C] -> [B, h/stride, w/stride, features]."""
        first, second = self.dilations
        y = ConvNorm(self.features, 3, self.stride, first, dtype=self.dtype, name="conv1")(
            x, batch_stats=batch_stats
        )
        y = ConvNorm(self.features, 3, 1, second, None, dtype=self.dtype, name="conv2")(
            y, batch_stats=batch_stats
        )
        return nn.relu(y + _shortcut(self, x, y, batch_stats))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the stride is in the 3x3 (v1.5)."""

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """[B, h, w, C] -> [B, h/stride, w/stride, 4 * features]."""
        y = ConvNorm(self.features, dtype=self.dtype, name="conv1")(x, batch_stats=batch_stats)
        y = ConvNorm(
            self.features, 3, self.stride, self.dilations[0], dtype=self.dtype, name="conv2"
        )(y, batch_stats=batch_stats)
        y = ConvNorm(4 * self.features, activation=None, dtype=self.dtype, name="conv3")(
            y, batch_stats=batch_stats
        )
        return nn.relu(y + _shortcut(self, x, y, batch_stats))


def _shortcut(block, x, y, batch_stats):
    if x.shape == y.shape:
        return x
    return ConvNorm(
        y.shape[-1], 1, block.stride, activation=None, dtype=block.dtype, name="downsample"
    )(x, batch_stats=batch_stats)


class ResNet(nn.Module):
    """The stem and four residual stages of torchvision's ResNet (v1.5).

    Attributes:
      variant: a key of `RESNETS`.
      output_stride: 8, 16 or 32; a stage that does not stride is dilated instead, its first block
        still with the dilation before (torchvision's `replace_stride_with_dilation`).
    Source: He et al. 2016; Chen et al. 2017 for the dilation.
    """

    variant: str
    output_stride: int = 16
    dtype: Any = jnp.float32

    def setup(self):
        """Build stem and stages."""
        kind, depths = RESNETS[self.variant]
        block = BasicBlock if kind == "basic" else Bottleneck
        self.stem = ConvNorm(64, 7, 2, dtype=self.dtype)
        stages, stride, dilation = [], 4, 1
        for i, depth in enumerate(depths):
            previous, step = dilation, 1
            if i > 0 and stride < self.output_stride:
                stride, step = 2 * stride, 2
            elif i > 0:
                dilation *= 2
            stages.append(
                [
                    block(
                        64 * 2**i,
                        step if j == 0 else 1,
                        (previous if j == 0 else dilation, dilation),
                        self.dtype,
                        name=f"stage{i + 1}_block{j + 1}",
                    )
                    for j in range(depth)
                ]
            )
        self.stages = stages

    def stage(self, i: int, x, *, batch_stats: bool):
        """Stage i of 1..4; stage 1 takes images and includes stem and pool."""
        if i == 1:
            x = ops.max_pool_3x3_stride_2(self.stem(x, batch_stats=batch_stats))
        for block in self.stages[i - 1]:
            x = block(x, batch_stats=batch_stats)
        return x
