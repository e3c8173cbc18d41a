"""The supervised loss, and what the teaching losses read off it."""

import jax
import jax.numpy as jnp


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
    # A comparison instead of a gather: its gradient is elementwise, a gather's is a scatter.
    hit = labels[..., None] == jnp.arange(logits.shape[-1], dtype=jnp.int32)
    log_p = jax.nn.log_softmax(logits)
    return jnp.where(valid, -jnp.sum(jnp.where(hit, log_p, 0.0), axis=-1), 0.0), valid
