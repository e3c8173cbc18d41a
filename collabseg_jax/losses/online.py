"""Online distillation in logit space: both students teach at every valid pixel."""

import jax
import jax.numpy as jnp

from collabseg_jax.errors import unknown
from collabseg_jax.losses.cells import valid_cells
from collabseg_jax.losses.divergences import kl
from collabseg_jax.losses.precision import widen
from collabseg_jax.losses.reduce import masked_mean, zero_outside

ENSEMBLES = ("naive", "mean", "min_logit")


def dml(
    student: jax.Array, teacher: jax.Array, valid: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
    """Deep mutual learning, the loss of one student: KL(teacher || student) at all valid pixels.

    Args:
      student: [B, H, W, K] float, logits at label resolution.
      teacher: [B, H, W, K] float, likewise; no gradient flows into it.
      valid: [B, H, W] bool.
      temperature: float > 0, of the KL divergence, which is multiplied by its square.

    Returns:
      Scalar float32, nats, the mean over the valid pixels; 0 if there are none.

    Raises:
      ValueError: the shapes differ.

    Source:
      Zhang et al. 2018, eq. 5-7, at every pixel.

    Example:
      >>> student = jnp.zeros((1, 1, 2, 2))  # probabilities 1/2, 1/2 at both pixels
      >>> teacher = jnp.array([[[[200.0, 0.0], [0.0, 0.0]]]])  # sure of class 0 at the first
      >>> round(float(dml(student, teacher, jnp.ones((1, 1, 2), bool))), 4)  # (ln 2 + 0) / 2
      0.3466
    """
    return masked_mean(*dml_map(student, teacher, valid, temperature=temperature))


def dml_map(
    student: jax.Array, teacher: jax.Array, valid: jax.Array, *, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """`dml` before its mean; the arguments are the same.

    A pixel's value depends on that pixel alone, so any part of an image may be given.

    Returns:
      Two arrays: the divergence, [B, H, W] float32, nats, >= 0; and `valid`.

    Example:
      >>> student = jnp.zeros((1, 1, 2, 2))
      >>> teacher = jnp.array([[[[200.0, 0.0], [0.0, 0.0]]]])
      >>> values, where = dml_map(student, teacher, jnp.ones((1, 1, 2), bool))
      >>> [round(float(x), 4) for x in values[0, 0]], where.tolist()  # ln 2 and 0
      ([0.6931, 0.0], [[[True, True]]])
    """
    student, teacher = zero_outside(valid, student, teacher)
    return kl(student, teacher, temperature=temperature), valid


def kd_mutual(
    student: jax.Array, teacher: jax.Array, valid: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
    """Hinton's distillation both ways: `dml` at the head's own resolution.

    Args:
      student: [B, h, w, K] float, logits.
      teacher: [B, h, w, K] float, logits; no gradient flows into it.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
      temperature: float > 0, of the KL divergence, which is multiplied by its square.

    Returns:
      Scalar float32, nats, the mean over the positions that count; 0 if there are none.

    Raises:
      ValueError: the shapes of the logits differ.

    Source:
      Hinton et al. 2015, eq. 1-4, at each position, as segmentation toolboxes have it.

    Example:
      >>> student = jnp.zeros((1, 1, 2, 2))
      >>> teacher = jnp.array([[[[200.0, 0.0], [0.0, 0.0]]]])
      >>> valid = jnp.array([[[True, False, False, False]]])  # none at the second position
      >>> round(float(kd_mutual(student, teacher, valid)), 4)  # ln 2
      0.6931
    """
    return dml(student, teacher, valid_cells(valid, student.shape[1:3]), temperature=temperature)


def kdcl(
    student: jax.Array,
    teacher: jax.Array,
    student_ce: jax.Array,
    teacher_ce: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    *,
    ensemble: str = "naive",
    temperature: float = 1.0,
) -> jax.Array:
    """Collaborative learning, the loss of one student: KL(ensemble || student) at valid pixels.

    The paper's samples are pixels here, and its (1 - alpha) and alpha are the weights of `ce` and
    of this term.

    Args:
      student: [B, H, W, K] float, logits at label resolution. Its part in the ensemble gets no
        gradient.
      teacher: [B, H, W, K] float, likewise; no gradient flows into it.
      student_ce: [B, H, W] float32, nats.
      teacher_ce: [B, H, W] float32, nats.
      labels: [B, H, W] integer; anything where not valid.
      valid: [B, H, W] bool.
      ensemble: "naive" (at each pixel the logits of the student with the lower cross-entropy),
        "mean" (of both logits), or "min_logit" (each logit minus that of the label; the smaller
        of the two students').
      temperature: float > 0, of the KL divergence, which is multiplied by its square.

    Returns:
      Scalar float32, nats, the mean over all valid pixels; "naive" adds 0 at a pixel where the
        student itself has the lower cross-entropy.

    Raises:
      ValueError: an unknown ensemble, or shapes that differ.

    Source:
      Guo et al. 2020 (KDCL): Naive, MinLogit, and Linear with equal weights.

    Example:
      >>> student, teacher = jnp.zeros((1, 1, 1, 2)), jnp.log(jnp.array([[[[9.0, 1.0]]]]))
      >>> ce, labels = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int)
      >>> valid = jnp.ones((1, 1, 1), bool)
      >>> loss = kdcl(student, teacher, ce, ce, labels, valid, ensemble="mean")
      >>> round(float(loss), 4)  # the ensemble is (ln 3, 0): 3/4 ln(3/2) + 1/4 ln(1/2)
      0.1308
    """
    return masked_mean(
        *kdcl_map(
            student,
            teacher,
            student_ce,
            teacher_ce,
            labels,
            valid,
            ensemble=ensemble,
            temperature=temperature,
        )
    )


def kdcl_map(
    student: jax.Array,
    teacher: jax.Array,
    student_ce: jax.Array,
    teacher_ce: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    *,
    ensemble: str = "naive",
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """`kdcl` before its mean; the arguments are the same.

    A pixel's value depends on that pixel alone, so any part of an image may be given.

    Returns:
      Two arrays: the divergence, [B, H, W] float32, nats, >= 0; and `valid`.

    Example:
      >>> student, teacher = jnp.zeros((1, 1, 1, 2)), jnp.log(jnp.array([[[[9.0, 1.0]]]]))
      >>> ce, labels = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1), int)
      >>> valid = jnp.ones((1, 1, 1), bool)
      >>> values, where = kdcl_map(student, teacher, ce, ce, labels, valid, ensemble="mean")
      >>> round(float(values[0, 0, 0]), 4), where.tolist()
      (0.1308, [[[True]]])
    """
    if ensemble not in ENSEMBLES:
        raise unknown("ensemble", ensemble, ENSEMBLES)
    student, teacher = zero_outside(valid, widen(student), widen(teacher))
    own = jax.lax.stop_gradient(student)
    if ensemble == "naive":
        target = jnp.where((teacher_ce < student_ce)[..., None], teacher, own)
    elif ensemble == "mean":
        target = (own + teacher) / 2
    else:
        hit = labels[..., None] == jnp.arange(student.shape[-1], dtype=jnp.int32)

        def minus_label(x: jax.Array) -> jax.Array:
            return x - jnp.sum(jnp.where(hit, x, 0.0), -1, keepdims=True)

        target = jnp.minimum(minus_label(own), minus_label(teacher))
    return kl(student, target, temperature=temperature), valid
