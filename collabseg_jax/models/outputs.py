"""What every student returns."""

from typing import NamedTuple

import jax


class SegOutput(NamedTuple):
    """Output of one student for images [B, H, W, 3].

    Attributes:
      stages: (F1, F2, F3, F4), the four encoder stages, [B, h_i, w_i, C_i]; F1 at stride 4.
      embedding: [B, h, w, D], what enters the classifier (before dropout).
      logits: [B, h, w, K] float32, at the head's own resolution (stride 4).
    """

    stages: tuple[jax.Array, jax.Array, jax.Array, jax.Array]
    embedding: jax.Array
    logits: jax.Array
