"""Bidirectional selective distillation: who has the lower cross-entropy there teaches there."""

import jax.numpy as jnp

from collabseg_jax.losses.divergences import MAX_RELATIONAL_GRID, get_divergence, kl, relational
from collabseg_jax.losses.reduce import cell_mean, masked_mean, mean_of
from collabseg_jax.losses.selectors import select_where


def bsd_region(
    student,
    teacher,
    student_ce,
    teacher_ce,
    valid,
    *,
    divergence="kl_ln",
    select="lower_ce",
    teacher_correct=None,
    rng=None,
):
    """Region-wise BSD loss of one student, in feature space.

    A region is one cell of the feature grid; its error is the mean cross-entropy of its valid
    pixels. Ties and regions without a valid pixel are on neither side.

    Args:
      student, teacher: last features in the common shape, [B, h, w, C]; the teacher is stopped.
      student_ce, teacher_ce: [B, H, W] float32, nats.
      valid: [B, H, W] bool.
      divergence: a name of `DIVERGENCES`; "relational" works on maps (and so regions) pooled to
        32x32 at most.
      select: see `select_where`; a region's teacher is correct when it predicts more than half of
        the region's valid pixels.
      teacher_correct: [B, H, W] bool, for "lower_ce_correct".
      rng: key, for "random".
    Returns:
      scalar float32, the mean over the regions that go this way; 0 if none does.
    Source: Zhu et al. 2023, region-wise BSD; docs/method.md.
    """
    distance = get_divergence(divergence)
    if distance is relational:
        _, has_valid = cell_mean(valid, valid, student.shape[1:3])
        grid = tuple(min(n, MAX_RELATIONAL_GRID) for n in student.shape[1:3])
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
    student, teacher = (jnp.where(has_valid[..., None], x, 0.0) for x in (student, teacher))
    options = {"valid": has_valid} if distance is relational else {}
    return masked_mean(distance(student, teacher, **options), where)


@mean_of
def bsd_pixel(
    student,
    teacher,
    student_ce,
    teacher_ce,
    valid,
    *,
    temperature=1.0,
    select="lower_ce",
    teacher_correct=None,
    rng=None,
):
    """Pixel-wise BSD loss of one student, in logit space.

    Args:
      student, teacher: logits at label resolution, [B, H, W, K]; the teacher is stopped.
      student_ce, teacher_ce: [B, H, W] float32, nats, at temperature 1 whatever `temperature` is.
      valid: [B, H, W] bool.
      temperature: of the KL divergence.
      select, teacher_correct, rng: see `select_where`.
    Returns:
      scalar float32, the mean over the pixels that go this way; 0 if none does.
    Source: Zhu et al. 2023, pixel-wise BSD; docs/method.md.
    """
    where = select_where(
        select, student_ce, teacher_ce, valid, teacher_correct=teacher_correct, rng=rng
    )
    student, teacher = (jnp.where(valid[..., None], x, 0.0) for x in (student, teacher))
    return kl(student, teacher, temperature=temperature), where
