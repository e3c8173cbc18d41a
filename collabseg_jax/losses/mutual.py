"""Baselines in which both students teach everywhere."""

import jax.numpy as jnp

from collabseg_jax.losses.divergences import kl
from collabseg_jax.losses.reduce import masked_mean


def dml(student, teacher, valid, *, temperature=1.0):
    """Deep mutual learning, the loss of one student: KL(teacher || student) at every valid pixel.

    Args:
      student, teacher: logits at label resolution, [B, H, W, K]; the teacher is stopped.
      valid: [B, H, W] bool.
      temperature: of the KL divergence, times its square.
    Returns:
      scalar float32.
    Source: Zhang et al. 2018, eq. 5-7, at every pixel.
    """
    student, teacher = (jnp.where(valid[..., None], x, 0.0) for x in (student, teacher))
    return masked_mean(kl(student, teacher, temperature=temperature), valid)
