"""Bidirectional selective distillation: where one has the lower cross-entropy, it teaches."""

import jax

from collabseg_jax.losses.cells import cell_mean
from collabseg_jax.losses.divergences import get_divergence, kl, relational, relational_grid
from collabseg_jax.losses.reduce import masked_mean, zero_outside
from collabseg_jax.losses.selectors import select_where


def bsd_region(
    student: jax.Array,
    teacher: jax.Array,
    student_ce: jax.Array,
    teacher_ce: jax.Array,
    valid: jax.Array,
    *,
    divergence: str = "kl_ln",
    select: str = "lower_ce",
    teacher_correct: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Region-wise BSD loss of one student, in feature space.

    A region is one cell of the feature grid; its error is the mean cross-entropy of its valid
    pixels. In a tie, or without a valid pixel, nobody teaches there.

    Args:
      student: [B, h, w, C] float, last features in the common shape.
      teacher: [B, h, w, C] float, likewise; no gradient flows into it.
      student_ce: [B, H, W] float32, nats.
      teacher_ce: [B, H, W] float32, nats.
      valid: [B, H, W] bool.
      divergence: a key of `DIVERGENCES`; "relational" compares maps, and so regions, pooled to
        32x32 at most.
      select: see `select_where`.
      teacher_correct: [B, H, W] bool, for "lower_ce_correct": a region's teacher is correct if it
        predicts more than half of the region's valid pixels.
      rng: key, for "random".

    Returns:
      Scalar float32, the mean over the selected regions; 0 if there are none.

    Raises:
      ValueError: an unknown divergence or selector, shapes that differ, or a missing
        `teacher_correct` or `rng`.

    Source:
      Zhu et al. 2023, region-wise BSD; docs/method.md.

    Example:
      >>> import jax.numpy as jnp
      >>> student = jnp.array([[[[0.0], [0.0]]]])  # two regions of two pixels each
      >>> teacher = jnp.array([[[[1.0], [2.0]]]])
      >>> student_ce = jnp.array([[[1.0, 1.0, 1.0, 1.0]]])
      >>> teacher_ce = jnp.array([[[2.0, 1.0, 0.0, 1.0]]])  # means 1.5 and 0.5: the second
      >>> valid = jnp.ones((1, 1, 4), bool)
      >>> float(bsd_region(student, teacher, student_ce, teacher_ce, valid, divergence="mse"))
      4.0
    """
    distance = get_divergence(divergence)
    if distance is relational:
        _, has_valid = cell_mean(valid, valid, student.shape[1:3])
        grid = relational_grid(student)
        student, teacher = (cell_mean(x, has_valid, grid)[0] for x in (student, teacher))
    grid = student.shape[1:3]
    student_error, has_valid = cell_mean(student_ce, valid, grid)
    teacher_error, _ = cell_mean(teacher_ce, valid, grid)
    if teacher_correct is not None:
        teacher_correct = cell_mean(teacher_correct, valid, grid)[0] > 0.5
    where = select_where(
        select,
        student_error,
        teacher_error,
        has_valid,
        teacher_correct=teacher_correct,
        rng=rng,
    )
    student, teacher = zero_outside(has_valid, student, teacher)
    options = {"valid": has_valid} if distance is relational else {}
    return masked_mean(distance(student, teacher, **options), where)


def bsd_pixel(
    student: jax.Array,
    teacher: jax.Array,
    student_ce: jax.Array,
    teacher_ce: jax.Array,
    valid: jax.Array,
    *,
    temperature: float = 1.0,
    select: str = "lower_ce",
    teacher_correct: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Pixel-wise BSD loss of one student, in logit space.

    Args:
      student: [B, H, W, K] float, logits at label resolution.
      teacher: [B, H, W, K] float, likewise; no gradient flows into it.
      student_ce: [B, H, W] float32, nats, at temperature 1 whatever `temperature` is.
      teacher_ce: [B, H, W] float32, nats, likewise.
      valid: [B, H, W] bool.
      temperature: float > 0, of the KL divergence, which is multiplied by its square.
      select: see `select_where`.
      teacher_correct: [B, H, W] bool, for "lower_ce_correct".
      rng: key, for "random".

    Returns:
      Scalar float32, nats, the mean over the selected pixels; 0 if there are none.

    Raises:
      ValueError: an unknown selector, shapes that differ, or a missing `teacher_correct` or
        `rng`.

    Source:
      Zhu et al. 2023, pixel-wise BSD; docs/method.md.

    Example:
      >>> import jax.numpy as jnp
      >>> student = jnp.zeros((1, 1, 2, 2))  # probabilities 1/2, 1/2 at both pixels
      >>> teacher = jnp.array([[[[200.0, 0.0], [0.0, 0.0]]]])  # sure of class 0 at the first
      >>> student_ce, teacher_ce = jnp.array([[[1.0, 1.0]]]), jnp.array([[[0.0, 2.0]]])
      >>> valid = jnp.ones((1, 1, 2), bool)
      >>> loss = bsd_pixel(student, teacher, student_ce, teacher_ce, valid)
      >>> round(float(loss), 4)  # ln 2 at the first pixel, the only one selected
      0.6931
    """
    return masked_mean(
        *bsd_pixel_map(
            student,
            teacher,
            student_ce,
            teacher_ce,
            valid,
            temperature=temperature,
            select=select,
            teacher_correct=teacher_correct,
            rng=rng,
        )
    )


def bsd_pixel_map(
    student: jax.Array,
    teacher: jax.Array,
    student_ce: jax.Array,
    teacher_ce: jax.Array,
    valid: jax.Array,
    *,
    temperature: float = 1.0,
    select: str = "lower_ce",
    teacher_correct: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`bsd_pixel` before its mean; the arguments are the same.

    A pixel's value depends on that pixel alone, so any part of an image may be given.

    Returns:
      Two arrays: the divergence, [B, H, W] float32, nats, >= 0; and where, [B, H, W] bool, the
        selected pixels.

    Example:
      >>> import jax.numpy as jnp
      >>> student = jnp.zeros((1, 1, 2, 2))
      >>> teacher = jnp.array([[[[200.0, 0.0], [0.0, 0.0]]]])
      >>> student_ce, teacher_ce = jnp.array([[[1.0, 1.0]]]), jnp.array([[[0.0, 2.0]]])
      >>> valid = jnp.ones((1, 1, 2), bool)
      >>> values, where = bsd_pixel_map(student, teacher, student_ce, teacher_ce, valid)
      >>> round(float(values[0, 0, 0]), 4), where.tolist()  # ln 2
      (0.6931, [[[True, False]]])
    """
    where = select_where(
        select, student_ce, teacher_ce, valid, teacher_correct=teacher_correct, rng=rng
    )
    student, teacher = zero_outside(valid, student, teacher)
    return kl(student, teacher, temperature=temperature), where
