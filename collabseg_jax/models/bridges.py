"""The learned projections between the students ("Γ" in the paper's figure)."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax.errors import unknown
from collabseg_jax.models.layers import Conv
from collabseg_jax.ops import resize_bilinear, wide_dtype

KINDS = ("common", "hfd", "mgd", "to_peer")  # of features that cross between the students
COMMON_CHANNELS = 256

Features = tuple[jax.Array, jax.Array]  # one student's features, then the other's


class Generator(nn.Module):
    """Convolution 3x3, ReLU, convolution 3x3, all of one width, with biases.

    Attributes:
      channels: of the input, the hidden layer and the output.
      dtype: compute dtype.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [B, h, w, channels] to the same shape."""
        conv = functools.partial(Conv, self.channels, 3, use_bias=True, dtype=self.dtype)
        return conv(name="conv2")(nn.relu(conv(name="conv1")(x)))


class Bridges(nn.Module):
    """Projections that bring the students' features into shapes that can be compared.

    The projections are 1x1 convolutions without norm. Features are resized only if the grids
    differ (our choice).

    Attributes:
      cnn_channels: channels of the CNN's four stages.
      vit_channels: channels of the ViT's four stages.
      kinds: which of `KINDS` to build: "hfd" (G1c: CNN F1 -> shape of ViT F1, and G1v the other
        way), "common" (G4c, G4v: F4 of both -> `common_channels`), "to_peer" (P4c: CNN F4 ->
        shape of ViT F4, and P4v the other way) and "mgd" (A4c, A4v: projections as in "to_peer",
        and a generator after each).
      common_channels: channels of "common".
      dtype: compute dtype.

    Source:
      Zhu et al. 2023, figure 2; Yang et al. 2022 for "mgd".

    Example:
      >>> import jax
      >>> from jax import numpy as jnp
      >>> from collabseg_jax.models import Bridges
      >>> bridges = Bridges((8, 8, 8, 8), (4, 4, 4, 6), kinds=("common", "hfd"))
      >>> cnn = [jnp.ones((1, 4, 4, 8))] * 4
      >>> vit = [jnp.ones((1, 4, 4, channels)) for channels in (4, 4, 4, 6)]
      >>> crossed, _ = bridges.init_with_output(jax.random.key(0), cnn, vit)
      >>> {kind: [x.shape for x in pair] for kind, pair in sorted(crossed.items())}
      {'common': [(1, 4, 4, 256), (1, 4, 4, 256)], 'hfd': [(1, 4, 4, 4), (1, 4, 4, 8)]}
    """

    cnn_channels: tuple[int, ...]
    vit_channels: tuple[int, ...]
    kinds: tuple[str, ...] = ("hfd", "common")
    common_channels: int = COMMON_CHANNELS
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Build only what `kinds` names."""
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown("kind of bridge", kind, KINDS)

        def project(features: int, use_bias: bool = True) -> Conv:
            init = nn.initializers.lecun_normal()
            return Conv(features, use_bias=use_bias, kernel_init=init, dtype=self.dtype)

        if "hfd" in self.kinds:
            self.g1c = project(self.vit_channels[0])
            # The next stage begins with convolution and BatchNorm, which would cancel a bias.
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

    def __call__(
        self,
        cnn_stages: Sequence[jax.Array],
        vit_stages: Sequence[jax.Array],
        keep: Features | None = None,
    ) -> dict[str, Features]:
        """Compute the crossed features of every kind in `kinds`.

        Args:
          cnn_stages: F1..F4 of the CNN, float [B, h_i, w_i, C_cnn_i].
          vit_stages: F1..F4 of the ViT, float [B, h_i', w_i', C_vit_i].
          keep: masks of "mgd", bool [B, h4', w4', 1] for the CNN's features and [B, h4, w4, 1]
            for the ViT's, both on the peer's grid: True keeps a position, False sets it to 0
            before the generator. None keeps every position.

        Returns:
          {kind: (what the CNN learns with, what the ViT learns with)}:
            "hfd": CNN F1 in the shape of ViT F1, and ViT F1 in the shape of CNN F1.
            "common": both F4 as [B, h4, w4, common_channels], float32 or wider.
            "to_peer": CNN F4 in the shape of ViT F4, and ViT F4 in the shape of CNN F4.
            "mgd": the same shapes as "to_peer", masked and completed by a generator.
        """
        cnn_f1, cnn_f4, vit_f1, vit_f4 = cnn_stages[0], cnn_stages[3], vit_stages[0], vit_stages[3]
        crossed = {}
        if "hfd" in self.kinds:
            crossed["hfd"] = _exchange(self.g1c, self.g1v, cnn_f1, vit_f1)
        if "common" in self.kinds:
            cnn, vit = self.g4c(cnn_f4), resize_bilinear(self.g4v(vit_f4), cnn_f4.shape[1:3])
            crossed["common"] = cnn.astype(wide_dtype(cnn)), vit.astype(wide_dtype(vit))
        if "to_peer" in self.kinds:
            crossed["to_peer"] = _exchange(self.p4c, self.p4v, cnn_f4, vit_f4)
        if "mgd" in self.kinds:
            to_vit, to_cnn = _exchange(self.a4c, self.a4v, cnn_f4, vit_f4)
            if keep is not None:
                to_vit, to_cnn = (
                    jnp.where(kept, x, 0) for kept, x in zip(keep, (to_vit, to_cnn), strict=True)
                )
            crossed["mgd"] = self.generator_c(to_vit), self.generator_v(to_cnn)
        return crossed


def _exchange(to_vit: nn.Module, to_cnn: nn.Module, cnn: jax.Array, vit: jax.Array) -> Features:
    """Bring each student's features into the channels and the grid of the peer's."""
    return (
        resize_bilinear(to_vit(cnn), vit.shape[1:3]),
        resize_bilinear(to_cnn(vit), cnn.shape[1:3]),
    )
