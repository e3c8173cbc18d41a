"""What every student returns."""

from collections.abc import Sequence

import jax
from flax import struct

from collabseg_jax import ops


@struct.dataclass
class SegOutput:
    """Output of one student for images [B, H, W, 3].

    Attributes:
      stages: (F1, F2, F3, F4), outputs of the encoder stages, [B, h_i, w_i, C_i]; F1 at stride 4.
      embedding: input of the classifier before dropout, [B, h, w, D].
      logits: float32 (or wider) [B, h, w, K], at the head's own resolution (stride 4).
      align_corners: how `logits_at` enlarges the logits.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax.models import SegOutput
      >>> x = jnp.zeros((1, 4, 4, 3))
      >>> output = SegOutput(stages=(x, x, x, x), embedding=x, logits=x)
      >>> output.logits_at((16, 16)).shape
      (1, 16, 16, 3)
    """

    stages: tuple[jax.Array, ...]
    embedding: jax.Array
    logits: jax.Array
    align_corners: bool = struct.field(pytree_node=False, default=False)

    def logits_at(self, shape: Sequence[int]) -> jax.Array:
        """Enlarge the logits.

        Args:
          shape: (H, W).

        Returns:
          [B, H, W, K] in the dtype of the logits.
        """
        return ops.resize_bilinear(self.logits, shape, align_corners=self.align_corners)
