"""SegFormer: a Mix Transformer and the all-MLP head."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import CLASSIFIER, TRUNCATED, BatchNorm, Conv, add_bias, dropout
from collabseg_jax.models.mix_transformer import MITS, MixTransformer
from collabseg_jax.models.outputs import SegOutput

HEAD_FORMS = ("folded", "plain")
WIDTH = {"b0": 256, "b1": 256, "b2": 768, "b3": 768, "b4": 768, "b5": 768}  # Xie et al., table 6


class MLPHead(nn.Module):
    """Project each stage to `width` channels, enlarge to stride 4, concatenate, fuse, norm, ReLU.

    Up to its norm the head is linear, so `folded=True` multiplies projection and fusion matrices
    first and enlarges afterwards: the same function of the same parameters at a fraction of the
    work. The fusion kernel expects the stages in the order F4, F3, F2, F1, as the original does.

    Attributes:
      width: channels of each projection and of the output.
      folded: multiply the matrices first.
      norm: makes the BatchNorm.
      dtype: compute dtype.

    Source:
      Xie et al. 2021, eq. 4.
    """

    width: int
    folded: bool = True
    norm: Callable[..., Any] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, stages: Sequence[jax.Array], *, batch_stats: bool) -> jax.Array:
        """(F1..F4) -> [B, h1, w1, width]."""
        shape, width = stages[0].shape[1:3], self.width
        fuse = self.param("fuse", nn.initializers.he_normal(), (4 * width, width))
        total: Any = 0.0
        concatenated = []
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
    """SegFormer, the transformer student.

    Attributes:
      encoder: a key of `mix_transformer.MITS`.
      num_classes: K.
      head: one of `HEAD_FORMS`: "folded" or "plain", two formulations of the same head.
      width: channels of the head; 0 for the paper's (256 for B0 and B1, 768 for the others; smp
        has 256 for all).
      align_corners: how the logits are enlarged; False in the original and transformers, True in
        smp.
      layer_norm_eps: of the LayerNorms in blocks and after stages: 1e-5 in transformers (whatever
        its config says), 1e-6 in NVlabs' code and smp. In the patch embeddings and spatial
        reductions it is 1e-5 in all three.
      bn_eps: of the head's BatchNorm; 1e-5 in all three.
      bn_momentum: share of the old running average; 0.9 (torch's momentum 0.1) in all three.
      dropout: rate before the classifier.
      dropout_kind: "channel" (torch Dropout2d; NVlabs) or "element" (torch Dropout; transformers).
      drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in the first.
      dtype: compute dtype.
      remat: recompute the activations of the encoder's blocks in the backward pass.

    Source:
      Xie et al. 2021.

    Example:
      >>> import jax
      >>> from jax import numpy as jnp
      >>> from collabseg_jax.models import SegFormer
      >>> model = SegFormer("b0", num_classes=3)
      >>> images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
      >>> output, variables = jax.eval_shape(
      ...     lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
      ... )
      >>> [x.shape for x in output.stages]
      [(1, 16, 16, 32), (1, 8, 8, 64), (1, 4, 4, 160), (1, 2, 2, 256)]
      >>> output.logits.shape
      (1, 16, 16, 3)
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

    def setup(self) -> None:
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

    def stage(
        self, i: int, features: jax.Array, *, batch_stats: bool = True, drop: bool = False
    ) -> jax.Array:
        """Run encoder stage i.

        Args:
          i: 1 to 4.
          features: F_{i-1}, float [B, h, w, C]; for stage 1 the images.
          batch_stats: unused, the encoder has no BatchNorm.
          drop: apply stochastic depth; this needs the rng "dropout".

        Returns:
          F_i, [B, h', w', C'].
        """
        del batch_stats
        return self.backbone.stage(i, features, drop=drop)

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
            x = self.stage(i, x, drop=train)
            stages.append(x)
        embedding = self.decode_head(stages, batch_stats=train)
        x = embedding
        if train and self.dropout > 0:
            x = dropout(x, self.dropout, self.make_rng("dropout"), kind=self.dropout_kind)
        logits = self.classifier(x)
        logits = logits.astype(ops.wide_dtype(logits))
        return SegOutput(tuple(stages), embedding, logits, self.align_corners)
