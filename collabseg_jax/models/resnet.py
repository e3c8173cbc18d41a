"""ResNet encoders with a chosen output stride."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import BatchNorm, ConvNorm, block_class

# name: (block, blocks in each stage)
RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
STEMS = ("7x7", "deep")
STRIDE_PLACES = ("3x3", "1x1")


def stage_channels(variant: str) -> tuple[int, ...]:
    """Channels of the four stages of the ResNet of that name."""
    expansion = 1 if RESNETS[variant][0] == "basic" else 4
    return tuple(c * expansion for c in (64, 128, 256, 512))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    conv: Callable[..., Any] = ConvNorm

    @nn.compact
    def __call__(self, x: jax.Array, batch_stats: bool) -> jax.Array:
        """[B, h, w, C] -> [B, h/stride, w/stride, features]."""
        first, second = self.dilations
        y = self.conv(self.features, 3, self.stride, first, name="conv1")(
            x, batch_stats=batch_stats
        )
        y = self.conv(self.features, 3, 1, second, None, name="conv2")(y, batch_stats=batch_stats)
        return nn.relu(y + _shortcut(self, x, y, batch_stats))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut."""

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    conv: Callable[..., Any] = ConvNorm
    stride_in: str = "3x3"

    @nn.compact
    def __call__(self, x: jax.Array, batch_stats: bool) -> jax.Array:
        """[B, h, w, C] -> [B, h/stride, w/stride, 4 * features]."""
        first, second = (1, self.stride) if self.stride_in == "3x3" else (self.stride, 1)
        y = self.conv(self.features, 1, first, name="conv1")(x, batch_stats=batch_stats)
        y = self.conv(self.features, 3, second, self.dilations[0], name="conv2")(
            y, batch_stats=batch_stats
        )
        y = self.conv(4 * self.features, activation=None, name="conv3")(y, batch_stats=batch_stats)
        return nn.relu(y + _shortcut(self, x, y, batch_stats))


def _shortcut(block: Any, x: jax.Array, y: jax.Array, batch_stats: bool) -> jax.Array:
    if x.shape == y.shape:
        return x
    return block.conv(y.shape[-1], 1, block.stride, activation=None, name="downsample")(
        x, batch_stats=batch_stats
    )


class ResNet(nn.Module):
    """The stem and four residual stages of ResNet.

    Attributes:
      variant: a key of `RESNETS`.
      output_stride: 8, 16 or 32; a stage that does not stride is dilated instead.
      dilate_first: the first block of such a stage is dilated like the others (smp); if False, it
        has the dilation of the stage before (torchvision's `replace_stride_with_dilation`).
      stem: "7x7", one convolution (torchvision, transformers); "deep", three 3x3 of 32, 32 and 64
        channels (ResNet-C of He et al. 2019; v1c in mmsegmentation).
      stride_in: where a bottleneck strides: "3x3" (v1.5; torchvision, mmsegmentation's "pytorch"
        style) or "1x1", the first one (v1, the paper; `downsample_in_bottleneck` in transformers).
      norm: makes the BatchNorms.
      dtype: compute dtype.
      remat: recompute the activations of the blocks in the backward pass.

    Source:
      He et al. 2016; Chen et al. 2017 for the dilation.
    """

    variant: str
    output_stride: int = 16
    dilate_first: bool = False
    stem: str = "7x7"
    stride_in: str = "3x3"
    norm: Callable[..., Any] = BatchNorm
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Build stem and stages."""
        conv = functools.partial(ConvNorm, dtype=self.dtype, norm=self.norm)
        kind, depths = RESNETS[self.variant]
        options = {} if kind == "basic" else {"stride_in": self.stride_in}
        block = block_class(BasicBlock if kind == "basic" else Bottleneck, self.remat)
        if self.stem == "deep":
            parts = ((32, 3, 2), (32, 3, 1), (64, 3, 1))
            self.stem_convs = [conv(*part, name=f"stem{i + 1}") for i, part in enumerate(parts)]
        else:
            self.stem_convs = [conv(64, 7, 2, name="stem")]
        stages, stride, dilation = [], 4, 1
        for i, depth in enumerate(depths):
            previous, step = dilation, 1
            if i > 0 and stride < self.output_stride:
                stride, step = 2 * stride, 2
            elif i > 0:
                dilation *= 2
            if self.dilate_first:
                previous = dilation
            stages.append(
                [
                    block(
                        64 * 2**i,
                        step if j == 0 else 1,
                        (previous if j == 0 else dilation, dilation),
                        conv,
                        **options,
                        name=f"stage{i + 1}_block{j + 1}",
                    )
                    for j in range(depth)
                ]
            )
        self.stages = stages

    def stage(self, i: int, x: jax.Array, *, batch_stats: bool) -> jax.Array:
        """Stage i of 1..4; stage 1 takes images and includes stem and pool."""
        if i == 1:
            for conv in self.stem_convs:
                x = conv(x, batch_stats=batch_stats)
            x = ops.max_pool_3x3_stride_2(x)
        for block in self.stages[i - 1]:
            x = block(x, batch_stats)
        return x
