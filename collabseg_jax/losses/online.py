"""Online distillation in logit space: both students teach at every valid pixel."""

import jax
import jax.numpy as jnp

from collabseg_jax.errors import unknown
from collabseg_jax.losses.divergences import kl
from collabseg_jax.losses.reduce import mean_of, valid_cells

ENSEMBLES = ("naive", "mean", "min_logit")


@mean_of
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
    return kl(student, teacher, temperature=temperature), valid


def kd_mutual(student, teacher, valid, *, temperature=1.0):
    """Hinton's distillation both ways, at the head's own resolution; else it is `dml`.

    Args:
      student, teacher: logits [B, h, w, K]; the teacher is stopped.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
      temperature: of the KL divergence, times its square.
    Returns:
      scalar float32, the mean over the positions that count.
    Source: Hinton et al. 2015, eq. 1-4, at each position, as segmentation toolboxes have it.
    """
    return dml(student, teacher, valid_cells(valid, student.shape[1:3]), temperature=temperature)


@mean_of
def kdcl(
    student,
    teacher,
    student_ce,
    teacher_ce,
    labels,
    valid,
    *,
    ensemble="naive",
    temperature=1.0,
):
    """Collaborative learning, the loss of one student: KL(ensemble || student) at valid pixels.

    The paper's samples are pixels here, and its (1 - alpha) and alpha are the weights of `ce` and
    of this term.

    Args:
      student, teacher: logits at label resolution, [B, H, W, K]. The ensemble made of them is
        stopped, the student's part of it too.
      student_ce, teacher_ce: [B, H, W] float32, nats.
      labels: [B, H, W] integer; anything where not valid.
      valid: [B, H, W] bool.
      ensemble: "naive" (at each pixel the logits of whoever has the lower cross-entropy), "mean"
        (of both logits), or "min_logit" (of both logits minus that of the label, the smaller).
      temperature: of the KL divergence, times its square.
    Returns:
      scalar float32, the mean over all valid pixels; under "naive" it is 0 at a pixel where the
      student itself has the lower cross-entropy.
    Raises:
      ValueError: unknown ensemble.
    Source: Guo et al. 2020 (KDCL): Naive, MinLogit, and Linear with equal weights.
    """
    if ensemble not in ENSEMBLES:
        raise unknown("ensemble", ensemble, ENSEMBLES)
    student, teacher = (
        jnp.where(valid[..., None], x.astype(jnp.float32), 0.0) for x in (student, teacher)
    )
    own = jax.lax.stop_gradient(student)
    if ensemble == "naive":
        target = jnp.where((teacher_ce < student_ce)[..., None], teacher, own)
    elif ensemble == "mean":
        target = (own + teacher) / 2
    else:
        hit = labels[..., None] == jnp.arange(student.shape[-1], dtype=jnp.int32)

        def beside_the_label(x):
            return x - jnp.sum(jnp.where(hit, x, 0.0), -1, keepdims=True)

        target = jnp.minimum(beside_the_label(own), beside_the_label(teacher))
    return kl(student, target, temperature=temperature), valid
