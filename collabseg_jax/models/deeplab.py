"""DeepLabV3+: an atrous CNN encoder, ASPP, and a decoder with low-level features."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import (
    CLASSIFIER,
    Conv,
    ConvNorm,
    DepthwiseNorm,
    channel_dropout,
)
from collabseg_jax.models.mobilenet_v2 import STAGE_CHANNELS, MobileNetV2
from collabseg_jax.models.outputs import SegOutput
from collabseg_jax.models.resnet import ResNet, stage_channels

WIDTH = 256  # channels of ASPP and decoder
ATROUS_RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}


class Conv3x3(nn.Module):
    """A 3x3 convolution with norm and ReLU: plain, or depthwise and then pointwise."""

    features: int
    dilation: int = 1
    separable: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """[B, h, w, C] -> [B, h, w, features]."""
        if self.separable:
            x = DepthwiseNorm(1, self.dilation, dtype=self.dtype, name="depthwise")(
                x, batch_stats=batch_stats
            )
            return ConvNorm(self.features, dtype=self.dtype, name="pointwise")(
                x, batch_stats=batch_stats
            )
        return ConvNorm(self.features, 3, 1, self.dilation, dtype=self.dtype, name="dense")(
            x, batch_stats=batch_stats
        )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three atrous 3x3, image pooling; then 1x1.

    Source: Chen et al. 2017 (DeepLabV3), section 3.3.
    """

    rates: tuple[int, int, int]
    separable: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, batch_stats: bool):
        """[B, h, w, C] -> [B, h, w, 256]."""
        branches = [ConvNorm(WIDTH, dtype=self.dtype, name="point")(x, batch_stats=batch_stats)]
        for i, rate in enumerate(self.rates):
            branch = Conv3x3(WIDTH, rate, self.separable, self.dtype, name=f"atrous{i + 1}")
            branches.append(branch(x, batch_stats=batch_stats))
        pooled = x.astype(jnp.float32).mean((1, 2), keepdims=True).astype(self.dtype)
        pooled = ConvNorm(WIDTH, dtype=self.dtype, name="pool")(pooled, batch_stats=batch_stats)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = jnp.concatenate(branches, axis=-1)
        return ConvNorm(WIDTH, dtype=self.dtype, name="project")(x, batch_stats=batch_stats)


class DeepLabV3Plus(nn.Module):
    """The CNN student.

    Attributes:
      encoder: "mobilenet_v2" or a key of `resnet.RESNETS`.
      num_classes: K.
      output_stride: 8, 16 or 32.
      atrous_rates: the three of ASPP, in cells of F4; () for those that belong to `output_stride`.
      separable: atrous and decoder 3x3 convolutions as depthwise + pointwise.
      low_level: channels that F1 is reduced to.
      dropout: rate of channel dropout before the classifier.
      dtype: of the compute.
    Source: Chen et al. 2018, section 3.
    """

    encoder: str
    num_classes: int = 21
    output_stride: int = 16
    atrous_rates: tuple[int, ...] = ()
    separable: bool = True
    low_level: int = 48
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of F1..F4."""
        if self.encoder == "mobilenet_v2":
            return STAGE_CHANNELS
        return stage_channels(self.encoder)

    def setup(self):
        """Build encoder, ASPP and decoder."""
        if self.encoder == "mobilenet_v2":
            self.backbone = MobileNetV2(self.output_stride, self.dtype)
        else:
            self.backbone = ResNet(self.encoder, self.output_stride, self.dtype)
        self.aspp = ASPP(
            tuple(self.atrous_rates) or ATROUS_RATES[self.output_stride], self.separable, self.dtype
        )
        self.reduce_low = ConvNorm(self.low_level, dtype=self.dtype)
        self.decoder1 = Conv3x3(WIDTH, 1, self.separable, self.dtype)
        self.decoder2 = Conv3x3(WIDTH, 1, self.separable, self.dtype)
        self.classifier = Conv(
            self.num_classes, use_bias=True, kernel_init=CLASSIFIER, dtype=self.dtype
        )

    def stage(self, i: int, features, *, batch_stats: bool, drop: bool = False):
        """Encoder stage i of 1..4 on F_{i-1} (stage 1: on images).

        Args:
          features: [B, h, w, C].
          batch_stats: normalise with the statistics of `features` instead of the running ones.
          drop: unused, the encoder has no stochastic depth.
        Returns:
          F_i, [B, h', w', C'].
        """
        del drop
        return self.backbone.stage(i, features, batch_stats=batch_stats)

    def __call__(self, images, *, train: bool) -> SegOutput:
        """Segment normalised images [B, H, W, 3]; in training needs the rng "dropout"."""
        x, stages = images.astype(self.dtype), []
        for i in range(1, 5):
            x = self.stage(i, x, batch_stats=train)
            stages.append(x)
        low = self.reduce_low(stages[0], batch_stats=train)
        x = ops.resize_bilinear(self.aspp(x, batch_stats=train), low.shape[1:3])
        x = jnp.concatenate([x, low], axis=-1)
        embedding = self.decoder2(self.decoder1(x, batch_stats=train), batch_stats=train)
        x = embedding
        if train and self.dropout > 0:
            x = channel_dropout(x, self.dropout, self.make_rng("dropout"))
        logits = self.classifier(x).astype(jnp.float32)
        return SegOutput(tuple(stages), embedding, logits)
