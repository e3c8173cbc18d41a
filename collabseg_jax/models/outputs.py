"""What every student returns."""

import jax
from flax import struct

from collabseg_jax import ops


@struct.dataclass
class SegOutput:
    """Output of one student for images [B, H, W, 3].

    Attributes:
      stages: (F1, F2, F3, F4), the four encoder stages, [B, h_i, w_i, C_i]; F1 at stride 4.
      embedding: [B, h, w, D], what enters the classifier (before dropout).
      logits: [B, h, w, K] float32, at the head's own resolution (stride 4).
      align_corners: how the logits are meant to be enlarged.
    """

    stages: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    embedding: jax.Array
    logits: jax.Array
    align_corners: bool = struct.field(pytree_node=False, default=False)

    def logits_at(self, shape) -> jax.Array:
        """The logits enlarged to (H, W), float32 [B, H, W, K]."""
        return ops.resize_bilinear(self.logits, shape, align_corners=self.align_corners)
