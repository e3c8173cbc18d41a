"""SegFormer: a Mix Transformer and the all-MLP head."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import CLASSIFIER, TRUNCATED, BatchNorm, Conv, add_bias, dropout
from collabseg_jax.models.mix_transformer import MITS, MixTransformer
from collabseg_jax.models.outputs import SegOutput

HEAD_FORMS = ("folded", "plain")
WIDTH = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768}  # Xie et al., table 6


class MLPHead(nn.Module):
    """Project each stage to D channels, enlarge to stride 4, concatenate, fuse, norm, ReLU.

    Up to its norm the head is linear, so `folded=True` multiplies projection and fusion matrices
    first and enlarges afterwards: the same function of the same parameters at a fraction of the
    work. The fusion kernel expects the stages in the order F4, F3, F2, F1, as the original does.
    Source: Xie et al. 2021, eq. 4.
    """

    width: int
    folded: bool = True
    norm: Callable = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages, *, batch_stats: bool):
        """(F1..F4) -> [B, h1, w1, width]."""
        shape, width = stages[0].shape[1:3], self.width
        fuse = self.param("fuse", nn.initializers.he_normal(), (4 * width, width))
        total, concatenated = 0.0, []
        for i, features in enumerate(reversed(stages)):
            name = f"project{4 - i}"
            kernel = self.param(f"{name}_kernel", TRUNCATED, (features.shape[-1], width))
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (width,))
            part = fuse[i * width : (i + 1) * width]
            matrix = kernel @ part if self.folded else kernel
            offset = bias @ part if self.folded else bias
            y = ops.conv(features, matrix[None, None].astype(self.dtype))
            y = ops.resize_bilinear(y, shape)
            if self.folded:
                total = add_bias(total + y, offset)
            else:
                concatenated.append(add_bias(y, offset))
        if not self.folded:
            total = ops.conv(
                jnp.concatenate(concatenated, axis=-1), fuse[None, None].astype(self.dtype)
            )
        total = self.norm(dtype=self.dtype, name="norm")(total, batch_stats=batch_stats)
        return nn.relu(total)


class SegFormer(nn.Module):
    """The transformer student.

    Attributes:
      encoder: a key of `mix_transformer.MITS`.
      num_classes: K.
      head: "folded" or "plain", two formulations of one head.
      width: channels of the head; 0 for the paper's (256 for B0 and B1, 768 for the others; smp
        has 256 for all).
      align_corners: how the logits are enlarged; False in the original and transformers, True in
        smp.
      layer_norm_eps: of the LayerNorms in blocks and after stages: 1e-5 in transformers (whatever
        its config says), 1e-6 in NVlabs' code and smp. Those of patch embeddings and spatial
        reductions have 1e-5 in all of them.
      bn_eps, bn_momentum: of the head's BatchNorm; 1e-5 and 0.9 (torch's momentum 0.1) everywhere.
      dropout: rate before the classifier.
      dropout_kind: "channel" (torch Dropout2d; NVlabs) or "element" (torch Dropout; transformers).
      drop_path: stochastic depth of the last block; it rises linearly from 0 at the first, in all
        of them.
      dtype: of the compute.
      remat: keep no insides of the encoder's blocks for the way back.
    Source: Xie et al. 2021.
    """

    encoder: str
    num_classes: int = 21
    head: str = "folded"
    width: int = 0
    align_corners: bool = False
    layer_norm_eps: float = 1e-5
    bn_eps: float = 1e-5
    bn_momentum: float = 0.9
    dropout: float = 0.1
    dropout_kind: str = "channel"
    drop_path: float = 0.1
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of F1..F4."""
        return MITS[self.encoder][0]

    def setup(self):
        """Build encoder and head."""
        self.backbone = MixTransformer(
            self.encoder, self.drop_path, self.layer_norm_eps, self.dtype, self.remat
        )
        self.decode_head = MLPHead(
            self.width or WIDTH[self.encoder],
            self.head == "folded",
            functools.partial(BatchNorm, momentum=self.bn_momentum, eps=self.bn_eps),
            self.dtype,
        )
        self.classifier = Conv(
            self.num_classes, use_bias=True, kernel_init=CLASSIFIER, dtype=self.dtype
        )

    def stage(self, i: int, features, *, batch_stats: bool = True, drop: bool = False):
        """Encoder stage i of 1..4 on F_{i-1} (stage 1: on images).

        Args:
          features: [B, h, w, C].
          batch_stats: unused, the encoder has no BatchNorm.
          drop: stochastic depth on (needs the rng "dropout").
        Returns:
          F_i, [B, h', w', C'].
        """
        del batch_stats
        return self.backbone.stage(i, features, drop=drop)

    def __call__(self, images, *, train: bool) -> SegOutput:
        """Segment normalised images [B, H, W, 3]; in training needs the rng "dropout"."""
        x, stages = images.astype(self.dtype), []
        for i in range(1, 5):
            x = self.stage(i, x, drop=train)
            stages.append(x)
        embedding = self.decode_head(stages, batch_stats=train)
        x = embedding
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, self.make_rng("dropout"), kind=self.dropout_kind)
        logits = self.classifier(x).astype(jnp.float32)
        return SegOutput(tuple(stages), embedding, logits, self.align_corners)
