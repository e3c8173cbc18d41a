"""Predictions compared up to shift and scale."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.divergences import unit
from collabseg_jax.losses.precision import widen
from collabseg_jax.losses.reduce import masked_mean, zero_outside


def dist(
    student: jax.Array,
    teacher: jax.Array,
    valid: jax.Array,
    *,
    temperature: float = 1.0,
    inter: float = 1.0,
    intra: float = 1.0,
) -> jax.Array:
    """Distillation from a stronger teacher, the loss of one student.

    Args:
      student: [B, H, W, K] float, logits at label resolution.
      teacher: [B, H, W, K] float, likewise; no gradient flows into it.
      valid: [B, H, W] bool.
      temperature: float > 0, of both softmaxes; its square is a factor of the loss.
      inter: float >= 0, weight of the correlation over classes; 0 removes it.
      intra: float >= 0, weight of the correlation over pixels; 0 removes it.

    Returns:
      Scalar float32: inter * the mean over valid pixels of 1 - Pearson correlation of the two
        students' K probabilities + intra * the mean over classes of 1 - Pearson correlation of
        the class's two probabilities over all valid pixels of the batch.

    Source:
      Huang et al. 2022 (DIST). Each norm is guarded by 1e-12 inside its square root, not their
      product by adding 1e-8.

    Example:
      >>> student = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # two pixels, two classes
      >>> loss = dist(student, -student, jnp.ones((1, 1, 2), bool))
      >>> round(float(loss), 4)  # both correlations are -1: (1 + 1) + (1 + 1)
      4.0
    """
    teacher = jax.lax.stop_gradient(teacher)
    student, teacher = (
        jax.nn.softmax(x / temperature) for x in zero_outside(valid, widen(student), widen(teacher))
    )
    value = jnp.zeros((), student.dtype)
    if inter > 0:
        a, b = (unit(x - x.mean(-1, keepdims=True)) for x in (student, teacher))
        value += inter * masked_mean(1.0 - jnp.sum(a * b, -1), valid)
    if intra > 0:
        pixels = valid.reshape(1, -1)

        def over_pixels(x: jax.Array) -> jax.Array:
            x = x.reshape(-1, x.shape[-1]).T  # [K, B*H*W]
            mean = jnp.sum(x * pixels, -1, keepdims=True) / jnp.maximum(1, pixels.sum())
            return unit(jnp.where(pixels, x - mean, 0.0))

        apart = 1.0 - jnp.sum(over_pixels(student) * over_pixels(teacher), -1)
        value += intra * masked_mean(apart, jnp.broadcast_to(valid.any(), apart.shape))
    return temperature**2 * value
