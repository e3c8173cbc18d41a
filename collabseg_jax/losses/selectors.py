"""Where: the positions at which the teacher may teach, decided by the ground truth."""

import jax
import jax.numpy as jnp

from collabseg_jax.errors import unknown

SELECTORS = ("lower_ce", "lower_ce_correct", "all", "higher_ce", "random")


def select_where(
    select: str, student_ce, teacher_ce, valid, *, teacher_correct=None, rng=None
) -> jax.Array:
    """Positions where the student learns from the teacher.

    Args:
      select: "lower_ce" (the paper's rule: the teacher's cross-entropy is strictly lower),
        "lower_ce_correct" (and it predicts the label; ours), "all", "higher_ce" and "random"
        (half of the valid positions), the last three as controls.
      student_ce, teacher_ce: [...] float, nats; anything where not valid.
      valid: [...] bool.
      teacher_correct: [...] bool, for "lower_ce_correct".
      rng: key, for "random".
    Returns:
      [...] bool, a subset of `valid`; carries no gradient.
    Raises:
      ValueError: unknown selector, or what the selector needs is missing.
    Source: docs/method.md, BSD.
    """
    if select not in SELECTORS:
        raise unknown("select", select, SELECTORS)
    if select == "all":
        return valid
    if select == "random":
        if rng is None:
            raise ValueError("select='random' needs rng")
        return valid & jax.random.bernoulli(rng, 0.5, valid.shape)
    if select == "higher_ce":
        return valid & (teacher_ce > student_ce)
    lower = valid & (teacher_ce < student_ce)
    if select == "lower_ce":
        return lower
    if teacher_correct is None:
        raise ValueError("select='lower_ce_correct' needs teacher_correct")
    return lower & jnp.asarray(teacher_correct, bool)
