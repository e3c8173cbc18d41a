"""The supervised loss."""

import jax
import jax.numpy as jnp

from collabseg_jax.labels import IGNORE
from collabseg_jax.losses.precision import widen
from collabseg_jax.losses.reduce import zero_outside
from collabseg_jax.losses.softmax import softmax_cross_entropy


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, ignore_label: int = IGNORE
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy at each pixel.

    Args:
      logits: [B, H, W, K] float.
      labels: [B, H, W] integer in [0, K), or `ignore_label`.
      ignore_label: the label of pixels without one.

    Returns:
      Two arrays: the cross-entropy, [B, H, W] float32, nats, >= 0, 0 where ignored; and valid,
        [B, H, W] bool.

    Raises:
      ValueError: the shapes do not fit each other.

    Source:
      docs/method.md, the supervised loss.

    Example:
      >>> logits = jnp.log(jnp.array([[[[3.0, 1.0], [3.0, 1.0]]]]))  # probabilities 3/4, 1/4
      >>> ce, valid = cross_entropy(logits, jnp.array([[[0, 255]]]))
      >>> round(float(ce[0, 0, 0]), 4)  # ln(4/3)
      0.2877
      >>> float(ce[0, 0, 1]), valid.tolist()
      (0.0, [[[True, False]]])
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {logits.shape} do not fit labels {labels.shape}")
    valid = labels != ignore_label
    (logits,) = zero_outside(valid, widen(logits))
    return jnp.where(valid, softmax_cross_entropy(logits, labels), 0.0), valid
