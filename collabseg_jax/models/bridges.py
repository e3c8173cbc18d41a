"""The learned projections between the students ("Γ" in the paper's figure)."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import Conv

COMMON_CHANNELS = 256


class Generator(nn.Module):
    """Convolution 3x3, ReLU, convolution 3x3, all of one width, with biases."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """[B, h, w, channels] -> the same."""
        conv = functools.partial(Conv, self.channels, 3, use_bias=True, dtype=self.dtype)
        return conv(name="conv2")(nn.relu(conv(name="conv1")(x)))


class Bridges(nn.Module):
    """1x1 convolutions that map one student's features to where they can be compared.

    Attributes:
      cnn_channels, vit_channels: stage channels of the students.
      kinds: what is built: "hfd" (G1c: CNN F1 -> shape of ViT F1, and G1v the other way),
        "common" (G4c, G4v: F4 of both -> `common_channels`), "to_peer" (P4c: CNN F4 -> shape of
        ViT F4, and P4v the other way) and "mgd" (A4c, A4v: the same projections once more, and a
        generator in each peer's shape).
      dtype: of the compute.
    Source: Zhu et al. 2023, figure 2; no norm, and resize only if grids differ (ours).
    """

    cnn_channels: tuple[int, ...]
    vit_channels: tuple[int, ...]
    kinds: tuple[str, ...] = ("hfd", "common")
    common_channels: int = COMMON_CHANNELS
    dtype: Any = jnp.float32

    def setup(self):
        """Build only what `kinds` names."""

        def project(features, use_bias=True):
            init = nn.initializers.lecun_normal()
            return Conv(features, use_bias=use_bias, kernel_init=init, dtype=self.dtype)

        if "hfd" in self.kinds:
            self.g1c = project(self.vit_channels[0])
            # It feeds a stage that begins with conv + BatchNorm, which would undo a bias.
            self.g1v = project(self.cnn_channels[0], use_bias=False)
        if "common" in self.kinds:
            self.g4c = project(self.common_channels)
            self.g4v = project(self.common_channels)
        if "to_peer" in self.kinds:
            self.p4c = project(self.vit_channels[3])
            self.p4v = project(self.cnn_channels[3])
        if "mgd" in self.kinds:
            self.a4c = project(self.vit_channels[3])
            self.a4v = project(self.cnn_channels[3])
            self.generator_c = Generator(self.vit_channels[3], dtype=self.dtype)
            self.generator_v = Generator(self.cnn_channels[3], dtype=self.dtype)

    def lend(self, cnn_f1, vit_f1):
        """First features in the peer's shape: ([B, h, w, C_vit1], [B, h, w, C_cnn1])."""
        to_vit = ops.resize_bilinear(self.g1c(cnn_f1), vit_f1.shape[1:3])
        to_cnn = ops.resize_bilinear(self.g1v(vit_f1), cnn_f1.shape[1:3])
        return to_vit, to_cnn

    def common(self, cnn_f4, vit_f4):
        """Last features in one shape, float32: twice [B, h, w, common_channels], CNN's grid."""
        cnn = self.g4c(cnn_f4)
        vit = ops.resize_bilinear(self.g4v(vit_f4), cnn_f4.shape[1:3])
        return cnn.astype(jnp.float32), vit.astype(jnp.float32)

    def to_peer(self, cnn_f4, vit_f4):
        """Last features in the peer's shape: ([B, h, w, C_vit4], [B, h', w', C_cnn4])."""
        to_vit = ops.resize_bilinear(self.p4c(cnn_f4), vit_f4.shape[1:3])
        to_cnn = ops.resize_bilinear(self.p4v(vit_f4), cnn_f4.shape[1:3])
        return to_vit, to_cnn

    def generate(self, cnn_f4, vit_f4, keep_cnn, keep_vit):
        """Last features in the peer's shape, masked, and completed by the generators.

        Args:
          cnn_f4, vit_f4: [B, h, w, C_cnn4] and [B, h', w', C_vit4].
          keep_cnn, keep_vit: bool [B, h', w', 1] and [B, h, w, 1], on the peer's grid, where the
            features of the CNN and of the ViT are kept; they are 0 elsewhere.
        Returns:
          [B, h', w', C_vit4], from the CNN; [B, h, w, C_cnn4], from the ViT.
        Source: Yang et al. 2022 (MGD).
        """
        to_vit = ops.resize_bilinear(self.a4c(cnn_f4), vit_f4.shape[1:3])
        to_cnn = ops.resize_bilinear(self.a4v(vit_f4), cnn_f4.shape[1:3])
        return (
            self.generator_c(jnp.where(keep_cnn, to_vit, 0)),
            self.generator_v(jnp.where(keep_vit, to_cnn, 0)),
        )

    def __call__(self, cnn_stages, vit_stages):
        """Touch every projection that exists, for initialisation."""
        if "hfd" in self.kinds:
            self.lend(cnn_stages[0], vit_stages[0])
        if "common" in self.kinds:
            self.common(cnn_stages[3], vit_stages[3])
        if "to_peer" in self.kinds:
            self.to_peer(cnn_stages[3], vit_stages[3])
        if "mgd" in self.kinds:
            self.generate(cnn_stages[3], vit_stages[3], True, True)
