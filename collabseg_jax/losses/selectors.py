"""Where: the positions at which the teacher may teach, decided by the ground truth."""

import jax
import jax.numpy as jnp

from collabseg_jax.errors import unknown

SELECTORS = ("lower_ce", "lower_ce_correct", "all", "higher_ce", "random")


def select_where(
    select: str,
    student_ce: jax.Array,
    teacher_ce: jax.Array,
    valid: jax.Array,
    *,
    teacher_correct: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Positions where the student learns from the teacher.

    Args:
      select: "lower_ce" (the paper's rule: the teacher's cross-entropy is strictly lower),
        "lower_ce_correct" (and it predicts the label; ours), or one of the controls "all",
        "higher_ce" and "random" (half of the valid positions).
      student_ce: [...] float, nats; anything where not valid.
      teacher_ce: [...] float, nats; anything where not valid.
      valid: [...] bool.
      teacher_correct: [...] bool, for "lower_ce_correct".
      rng: key, for "random".

    Returns:
      [...] bool, a subset of `valid`; carries no gradient.

    Raises:
      ValueError: an unknown selector, or one whose `teacher_correct` or `rng` is missing.

    Source:
      docs/method.md, BSD.

    Example:
      >>> student_ce, teacher_ce = jnp.array([2.0, 2.0, 2.0]), jnp.array([1.0, 2.0, 3.0])
      >>> select_where("lower_ce", student_ce, teacher_ce, jnp.ones(3, bool)).tolist()
      [True, False, False]
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
