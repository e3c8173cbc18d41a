"""The supervised loss, and what the teaching losses read off it."""

import jax.numpy as jnp

from collabseg_jax.losses.softmax import softmax_cross_entropy


def cross_entropy(logits, labels, *, ignore_label=255):
    """Cross-entropy at each pixel.

    Args:
      logits: [B, H, W, K], any float type; computed in float32.
      labels: [B, H, W] integer in [0, K), or `ignore_label`.
    Returns:
      ce [B, H, W] float32, nats, 0 where ignored; valid [B, H, W] bool.
    Raises:
      ValueError: shapes do not agree.
    Source: docs/method.md, the supervised loss.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits {logits.shape} do not fit labels {labels.shape}")
    valid = labels != ignore_label
    # Masked before the maths: a NaN at an ignored pixel must reach neither value nor gradient.
    logits = jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0)
    return jnp.where(valid, softmax_cross_entropy(logits, labels), 0.0), valid
