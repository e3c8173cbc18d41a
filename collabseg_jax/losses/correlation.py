"""Predictions compared up to shift and scale."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.divergences import unit
from collabseg_jax.losses.reduce import masked_mean


def dist(student, teacher, valid, *, temperature=1.0, inter=1.0, intra=1.0):
    """Distillation from a stronger teacher, the loss of one student.

    Args:
      student, teacher: logits at label resolution, [B, H, W, K]; the teacher is stopped.
      valid: [B, H, W] bool.
      temperature: of both softmaxes, and T^2 a factor of the loss.
      inter, intra: weights of the two parts; 0 removes one.
    Returns:
      scalar float32: inter * the mean over valid pixels of 1 - Pearson correlation of the two
      students' K probabilities + intra * the mean over classes of 1 - Pearson correlation of the
      class's two probabilities over all valid pixels of the batch.
    Source: Huang et al. 2022 (DIST). The norms are guarded by 1e-12 under the root, not
      by 1e-8 beside their product.
    """
    student, teacher = (
        jax.nn.softmax(jnp.where(valid[..., None], x.astype(jnp.float32), 0.0) / temperature)
        for x in (student, jax.lax.stop_gradient(teacher))
    )
    value = jnp.zeros((), jnp.float32)
    if inter > 0:
        a, b = (unit(x - x.mean(-1, keepdims=True)) for x in (student, teacher))
        value += inter * masked_mean(1.0 - jnp.sum(a * b, -1), valid)
    if intra > 0:
        pixels = valid.reshape(1, -1)

        def over_pixels(x):
            x = x.reshape(-1, x.shape[-1]).T  # [K, B*H*W]
            mean = jnp.sum(x * pixels, -1, keepdims=True) / jnp.maximum(1, pixels.sum())
            return unit(jnp.where(pixels, x - mean, 0.0))

        apart = 1.0 - jnp.sum(over_pixels(student) * over_pixels(teacher), -1)
        value += intra * masked_mean(apart, jnp.broadcast_to(valid.any(), apart.shape))
    return temperature**2 * value
