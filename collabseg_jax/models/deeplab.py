"""DeepLabV3+: an atrous CNN encoder, ASPP, and a decoder with low-level features."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models import mobilenet_v2, resnet
from collabseg_jax.models.aspp import ASPP, WIDTH, Conv3x3
from collabseg_jax.models.layers import CLASSIFIER, BatchNorm, Conv, ConvNorm, dropout
from collabseg_jax.models.outputs import SegOutput

LOW_LEVEL = 48  # channels that F1 is reduced to


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The options of a head, and what it expects of its encoder.

    Attributes:
      atrous_rates: {output stride: the three dilations of ASPP, in cells of F4}.
      inner_norm: a norm and a ReLU between the halves of a separable convolution.
      refine: a 3x3 convolution after ASPP.
      convs: number of 3x3 convolutions in the decoder.
      align_corners: how maps are enlarged, both to F1's grid and to the image's.
      dilate_first: the first block of a dilated stage is dilated too.
      last_conv: MobileNetV2's 1280-channel convolution belongs to F4.
      aspp_dropout: rate of element-wise dropout after ASPP's last convolution.
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
    # Chen et al. 2018, figure 2 and section 4.2; docs/method.md lists what the paper leaves open.
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


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+, the CNN student.

    Attributes:
      encoder: "mobilenet_v2" or a key of `resnet.RESNETS`.
      num_classes: K.
      output_stride: 8, 16 or 32 (32 with decoder "paper" only).
      decoder: a key of `DECODERS`: "paper", or "smp" for exchange with that library.
      atrous_rates: the three dilations of ASPP, in cells of F4; () for those of `decoder`.
      separable: 3x3 convolutions of the head are depthwise and pointwise instead of dense. With
        "smp" this changes those of ASPP only; the others are always separable.
      stem: see `ResNet`; MobileNetV2 has no such choice.
      stride_in: see `ResNet`; MobileNetV2 has no such choice.
      bn_eps: 1e-5 in torchvision, smp and transformers' ResNet; 1e-3 in transformers' MobileNetV2.
      bn_momentum: share of the old running average; 0.9 is torch's momentum 0.1.
      dropout: rate before the classifier.
      dropout_kind: "channel" (torch Dropout2d; mmsegmentation) or "element" (torch Dropout).
      dtype: compute dtype.
      remat: recompute the activations of the encoder's blocks in the backward pass.

    Source:
      Chen et al. 2018, section 3.

    Example:
      >>> import jax
      >>> from jax import numpy as jnp
      >>> from collabseg_jax.models import DeepLabV3Plus
      >>> model = DeepLabV3Plus("resnet18", num_classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
      >>> output, variables = jax.eval_shape(
      ...     lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
      ... )
      >>> [x.shape for x in output.stages]
      [(1, 16, 16, 64), (1, 8, 8, 128), (1, 4, 4, 256), (1, 4, 4, 512)]
      >>> output.logits.shape
      (1, 16, 16, 3)
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
        """The options that `decoder` names."""
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

    def setup(self) -> None:
        """Build encoder, ASPP and decoder."""
        head = self.head
        norm = functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps)
        options: dict[str, Any] = {"norm": norm, "dtype": self.dtype}
        encoder = options | {"remat": self.remat}
        if self.encoder == "mobilenet_v2":
            self.backbone: mobilenet_v2.MobileNetV2 | resnet.ResNet = mobilenet_v2.MobileNetV2(
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
        point: Callable[..., Any] = functools.partial(ConvNorm, **options)
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

    def stage(
        self, i: int, features: jax.Array, *, batch_stats: bool, drop: bool = False
    ) -> jax.Array:
        """Run encoder stage i.

        Args:
          i: 1 to 4.
          features: F_{i-1}, float [B, h, w, C]; for stage 1 the images.
          batch_stats: normalise with the statistics of `features` instead of the running ones.
          drop: unused, the encoder has no stochastic depth.

        Returns:
          F_i, [B, h', w', C'].
        """
        del drop
        return self.backbone.stage(i, features, batch_stats=batch_stats)

    def __call__(self, images: jax.Array, *, train: bool) -> SegOutput:
        """Segment images.

        Args:
          images: float [B, H, W, 3], normalised.
          train: use and update batch statistics, and drop; this needs the rng "dropout".

        Returns:
          Stages, embedding and logits.
        """
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
        logits = self.classifier(x)
        logits = logits.astype(ops.wide_dtype(logits))
        return SegOutput(tuple(stages), embedding, logits, self.head.align_corners)
