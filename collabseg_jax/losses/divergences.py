"""How far apart: divergences between two maps, unreduced, teacher stopped, computed in float32."""

import jax
import jax.numpy as jnp

from collabseg_jax.errors import unknown
from collabseg_jax.losses.softmax import softmax_kl

MAX_RELATIONAL_GRID = 32


def _pair(student, teacher):
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"student {student.shape} and teacher {teacher.shape} differ in positions")
    teacher = jax.lax.stop_gradient(teacher)
    return student.astype(jnp.float32), teacher.astype(jnp.float32)


def _same_channels(student, teacher):
    if student.shape != teacher.shape:
        raise ValueError(f"student {student.shape} and teacher {teacher.shape} must have one shape")
    return _pair(student, teacher)


def kl(student, teacher, *, temperature=1.0):
    """KL(teacher || student) at each position, times temperature squared.

    Args:
      student: logits [..., K], any float type; computed in float32.
      teacher: logits [..., K]; no gradient flows into it.
      temperature: > 0, divides both logits.
    Returns:
      [...] float32, nats, >= 0.
    Raises:
      ValueError: shapes differ.
    Source: Hinton et al. 2015, eq. 1-4; docs/method.md, pixel-wise BSD.
    """
    student, teacher = _same_channels(student, teacher)
    return temperature**2 * softmax_kl(student / temperature, teacher / temperature)


def masked_kl(student, teacher, where):
    """KL(teacher || student) of two softmaxes over some of the last axis.

    Args:
      student, teacher: scores [..., n] float32; the teacher is stopped.
      where: [..., n] bool, what the softmaxes run over; broadcasts against the scores, which
        must be finite outside it too.
    Returns:
      [...] float32, nats, >= 0; 0 where `where` holds nowhere.
    """
    student, teacher = _same_channels(student, teacher)
    log_s, log_t = (jax.nn.log_softmax(jnp.where(where, x, -1e30)) for x in (student, teacher))
    return jnp.sum(jnp.where(where, jnp.exp(log_t) * (log_t - log_s), 0.0), axis=-1)


def kl_ln(student, teacher):
    """`kl` after both are standardised over channels (no affine part), so scale does not count.

    Args:
      student, teacher: [..., C].
    Returns:
      [...] float32, nats, >= 0.
    Source: ours (docs/method.md, choice of D); the normalisation is Ba et al. 2016, eq. 4.
    """
    student, teacher = _same_channels(student, teacher)

    def standardise(x):
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6)

    return kl(standardise(student), standardise(teacher))


def mse(student, teacher):
    """Mean over channels of the squared difference. [..., C] twice -> [...] float32.

    Source: Romero et al. 2015 (FitNets), eq. 3.
    """
    student, teacher = _same_channels(student, teacher)
    return jnp.mean((student - teacher) ** 2, axis=-1)


def unit(x):
    """x divided by its L2 norm over the last axis (guarded by 1e-12 under the root)."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


def cosine(student, teacher):
    """1 - cosine similarity over channels. [..., C] twice -> [...] float32 in [0, 2]."""
    student, teacher = _same_channels(student, teacher)
    return 1.0 - jnp.sum(unit(student) * unit(teacher), axis=-1)


def relational(student, teacher, *, valid=None):
    """How differently each position relates to the other positions of its image.

    Args:
      student: [B, h, w, C]; teacher: [B, h, w, C'] (channel counts may differ).
      valid: [B, h, w] bool, the positions compared with; None means all.
    Returns:
      [B, h, w] float32: at position i the mean over valid j of the squared difference between
      the two cosine similarities of i and j. Memory grows with (h*w)^2.
    Source: after Liu et al. 2019 (structured knowledge distillation), eq. 2-3; docs/method.md.
    """
    student, teacher = _pair(student, teacher)
    batch, height, width, _ = student.shape
    if valid is not None:
        student, teacher = (jnp.where(valid[..., None], x, 0.0) for x in (student, teacher))

    def similarity(x):
        flat = unit(x.reshape(batch, height * width, -1))
        return jnp.einsum("bic,bjc->bij", flat, flat, precision=jax.lax.Precision.HIGHEST)

    difference = (similarity(student) - similarity(teacher)) ** 2
    if valid is None:
        return difference.mean(-1).reshape(batch, height, width)
    weight = valid.reshape(batch, 1, -1).astype(jnp.float32)
    mean = jnp.sum(difference * weight, -1) / jnp.maximum(1.0, weight.sum(-1))
    return mean.reshape(batch, height, width)


DIVERGENCES = {"kl": kl, "kl_ln": kl_ln, "mse": mse, "cosine": cosine, "relational": relational}


def get_divergence(name: str):
    """The divergence of that name; ValueError that lists them otherwise."""
    if name not in DIVERGENCES:
        raise unknown("divergence", name, DIVERGENCES)
    return DIVERGENCES[name]
