"""The learned projections between the students ("Γ" in the paper's figure)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.models.layers import Conv

COMMON_CHANNELS = 256


class Bridges(nn.Module):
    """1x1 convolutions that map one student's features to where they can be compared.

    Attributes:
      cnn_channels, vit_channels: stage channels of the students.
      kinds: what is built: "hfd" (G1c: CNN F1 -> shape of ViT F1, and G1v the other way) and
        "common" (G4c, G4v: F4 of both -> `common_channels`).
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

    def __call__(self, cnn_stages, vit_stages):
        """Touch every projection that exists, for initialisation."""
        if "hfd" in self.kinds:
            self.lend(cnn_stages[0], vit_stages[0])
        if "common" in self.kinds:
            self.common(cnn_stages[3], vit_stages[3])
