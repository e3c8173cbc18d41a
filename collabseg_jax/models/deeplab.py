"""DeepLabV3+: an atrous CNN encoder, ASPP, and a decoder with low-level features."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models import mobilenet_v2, resnet
from collabseg_jax.models.layers import (
    CLASSIFIER,
    BatchNorm,
    Conv,
    ConvNorm,
    DepthwiseConv,
    DepthwiseNorm,
    dropout,
)
from collabseg_jax.models.outputs import SegOutput

WIDTH = 256  # channels of ASPP and decoder
LOW_LEVEL = 48  # channels that F1 is reduced to


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What a head is made of, and what its encoder must look like.

    Attributes:
      atrous_rates: {output stride: the three of ASPP}.
      inner_norm: a norm and a ReLU between the halves of a separable convolution.
      refine: a 3x3 convolution after ASPP.
      convs: 3x3 convolutions of the decoder.
      align_corners: of both enlargements, to F1's grid and to the image's.
      dilate_first: the first block of a dilated stage is dilated already.
      last_conv: MobileNetV2's 1280-channel convolution belongs to F4.
      aspp_dropout: rate of element-wise dropout after ASPP's projection.
    """

    atrous_rates: dict[int, tuple[int, int, int]]
    inner_norm: bool
    refine: bool
    convs: int
    align_corners: bool
    dilate_first: bool
    last_conv: bool
    aspp_dropout: float


DECODERS = {
    # Chen et al. 2018, figure 2 and section 4.2, with ours where they are silent (docs/method.md).
    "paper": Decoder(
        atrous_rates={8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)},
        inner_norm=True,
        refine=False,
        convs=2,
        align_corners=False,
        dilate_first=False,
        last_conv=False,
        aspp_dropout=0.0,
    ),
    # segmentation-models-pytorch 0.6: `DeepLabV3Plus`.
    "smp": Decoder(
        atrous_rates={8: (12, 24, 36), 16: (12, 24, 36)},
        inner_norm=False,
        refine=True,
        convs=1,
        align_corners=True,
        dilate_first=True,
        last_conv=True,
        aspp_dropout=0.5,
    ),
}


class Conv3x3(nn.Module):
    """A 3x3 convolution with norm and ReLU: plain, or depthwise and then pointwise."""

    features: int
    dilation: int = 1
    separable: bool = True
    inner_norm: bool = True
    align_corners: bool = False
    norm: Callable = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, coarse=None, *, batch_stats: bool):
        """[B, H, W, C] -> [B, H, W, features].

        `coarse` [B, h, w, C'] is enlarged to x's grid, and its channels come before x's.
        """
        options = {"dtype": self.dtype, "norm": self.norm}
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

    Source: Chen et al. 2017 (DeepLabV3), section 3.3.
    """

    rates: tuple[int, int, int]
    atrous: Callable = Conv3x3
    point: Callable = ConvNorm  # 1x1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, batch_stats: bool, train: bool = False):
        """[B, h, w, C] -> [B, h, w, 256]."""
        branches = [self.point(WIDTH, name="point")(x, batch_stats=batch_stats)]
        for i, rate in enumerate(self.rates):
            branch = self.atrous(WIDTH, rate, name=f"atrous{i + 1}")
            branches.append(branch(x, batch_stats=batch_stats))
        pooled = x.astype(jnp.float32).mean((1, 2), keepdims=True).astype(x.dtype)
        pooled = self.point(WIDTH, name="pool")(pooled, batch_stats=batch_stats)
        # In float32, so that its gradient, a sum over all positions, is summed in float32.
        pooled = jnp.broadcast_to(pooled.astype(jnp.float32), branches[0].shape)
        branches.append(pooled.astype(x.dtype))
        x = jnp.concatenate(branches, axis=-1)
        x = self.point(WIDTH, name="project")(x, batch_stats=batch_stats)
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, self.make_rng("dropout"), kind="element")
        return x


class DeepLabV3Plus(nn.Module):
    """The CNN student.

    Attributes:
      encoder: "mobilenet_v2" or a key of `resnet.RESNETS`.
      num_classes: K.
      output_stride: 8, 16 or 32 (32 with decoder "paper" only).
      decoder: a key of `DECODERS`: "paper", or "smp" for exchange with that library.
      atrous_rates: the three of ASPP, in cells of F4; () for those of `decoder`.
      separable: 3x3 convolutions of the head as depthwise + pointwise. With "smp", of ASPP alone;
        its others always are.
      stem, stride_in: see `ResNet`; no part of MobileNetV2.
      bn_eps: 1e-5 in torchvision, smp and transformers' ResNet; 1e-3 in transformers' MobileNetV2.
      bn_momentum: share of the old running average; 0.9 is torch's momentum 0.1.
      dropout: rate before the classifier.
      dropout_kind: "channel" (torch Dropout2d; mmsegmentation) or "element" (torch Dropout).
      dtype: of the compute.
      remat: keep no insides of the encoder's blocks for the way back.
    Source: Chen et al. 2018, section 3.
    """

    encoder: str
    num_classes: int = 21
    output_stride: int = 16
    decoder: str = "paper"
    atrous_rates: tuple[int, ...] = ()
    separable: bool = True
    stem: str = "7x7"
    stride_in: str = "3x3"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.9
    dropout: float = 0.1
    dropout_kind: str = "channel"
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def head(self) -> Decoder:
        """What `decoder` stands for."""
        return DECODERS[self.decoder]

    @property
    def rates(self) -> tuple[int, ...]:
        """The atrous rates of ASPP."""
        return tuple(self.atrous_rates) or self.head.atrous_rates[self.output_stride]

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of F1..F4."""
        if self.encoder == "mobilenet_v2":
            return mobilenet_v2.stage_channels(self.head.last_conv)
        return resnet.stage_channels(self.encoder)

    def setup(self):
        """Build encoder, ASPP and decoder."""
        head = self.head
        norm = functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps)
        options = {"norm": norm, "dtype": self.dtype}
        encoder = options | {"remat": self.remat}
        if self.encoder == "mobilenet_v2":
            self.backbone = mobilenet_v2.MobileNetV2(
                self.output_stride, head.dilate_first, head.last_conv, **encoder
            )
        else:
            self.backbone = resnet.ResNet(
                self.encoder,
                self.output_stride,
                head.dilate_first,
                self.stem,
                self.stride_in,
                **encoder,
            )
        point = functools.partial(ConvNorm, **options)
        conv3x3 = functools.partial(
            Conv3x3, inner_norm=head.inner_norm, align_corners=head.align_corners, **options
        )
        atrous = functools.partial(conv3x3, separable=self.separable)
        other = functools.partial(conv3x3, separable=self.separable or self.decoder == "smp")
        self.aspp = ASPP(self.rates, atrous, point, head.aspp_dropout)
        self.refine = [other(WIDTH, name="refine")] if head.refine else []
        self.reduce_low = point(LOW_LEVEL)
        self.decoder_convs = [other(WIDTH, name=f"decoder{i + 1}") for i in range(head.convs)]
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
        x = self.aspp(x, batch_stats=train, train=train)
        for conv in self.refine:
            x = conv(x, batch_stats=train)
        low = self.reduce_low(stages[0], batch_stats=train)
        first, *others = self.decoder_convs
        x = first(low, x, batch_stats=train)
        for conv in others:
            x = conv(x, batch_stats=train)
        embedding = x
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, self.make_rng("dropout"), kind=self.dropout_kind)
        logits = self.classifier(x).astype(jnp.float32)
        return SegOutput(tuple(stages), embedding, logits, self.head.align_corners)
