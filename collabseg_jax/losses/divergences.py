"""How far apart: divergences between two maps, unreduced; the teacher is stopped."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collabseg_jax.errors import unknown
from collabseg_jax.losses.precision import widen
from collabseg_jax.losses.reduce import zero_outside
from collabseg_jax.losses.softmax import softmax_kl

MAX_RELATIONAL_GRID = 32


def _pair(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"student {student.shape} and teacher {teacher.shape} differ in positions")
    return widen(student), widen(jax.lax.stop_gradient(teacher))


def _same_channels(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    if student.shape != teacher.shape:
        raise ValueError(f"student {student.shape} and teacher {teacher.shape} differ in shape")
    return _pair(student, teacher)


def kl(student: jax.Array, teacher: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """KL(teacher || student) at each position, times temperature squared.

    Args:
      student: [..., K] float, logits.
      teacher: [..., K] float, logits; no gradient flows into it.
      temperature: float > 0, divides both logits.

    Returns:
      [...] float32, nats, >= 0.

    Raises:
      ValueError: the shapes differ.

    Source:
      Hinton et al. 2015, eq. 1-4; docs/method.md, pixel-wise BSD.

    Example:
      >>> student = jnp.array([0.0, 0.0])  # probabilities 1/2, 1/2
      >>> teacher = jnp.log(jnp.array([3.0, 1.0]))  # 3/4, 1/4
      >>> round(float(kl(student, teacher)), 4)  # 3/4 ln(3/2) + 1/4 ln(1/2)
      0.1308
    """
    student, teacher = _same_channels(student, teacher)
    return temperature**2 * softmax_kl(student / temperature, teacher / temperature)


def masked_kl(student: jax.Array, teacher: jax.Array, where: jax.Array) -> jax.Array:
    """KL(teacher || student) of two softmaxes over some entries of the last axis.

    Args:
      student: [..., n] float, scores.
      teacher: [..., n] float, scores; no gradient flows into it.
      where: [..., n] bool, the entries that the softmaxes run over. It broadcasts against the
        scores, which must be finite outside it too.

    Returns:
      [...] float32, nats, >= 0; 0 where no entry is selected.

    Raises:
      ValueError: the shapes of the scores differ.
    """
    student, teacher = _same_channels(student, teacher)
    log_s, log_t = (jax.nn.log_softmax(jnp.where(where, x, -1e30)) for x in (student, teacher))
    return jnp.sum(jnp.where(where, jnp.exp(log_t) * (log_t - log_s), 0.0), axis=-1)


def kl_ln(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """`kl` of features standardised over their channels: neither shift nor scale matters.

    Args:
      student: [..., C] float.
      teacher: [..., C] float; no gradient flows into it.

    Returns:
      [...] float32, nats, >= 0.

    Raises:
      ValueError: the shapes differ.

    Source:
      Ours (docs/method.md, choice of D); the normalisation is Ba et al. 2016, eq. 4, without
      its affine part.

    Example:
      >>> student, teacher = jnp.array([1.0, 3.0]), jnp.array([5.0, 1.0])
      >>> round(float(kl_ln(student, teacher)), 3)  # of (-1, 1) and (1, -1): 2 tanh(1)
      1.523
    """
    student, teacher = _same_channels(student, teacher)

    def standardise(x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6)

    return kl(standardise(student), standardise(teacher))


def mse(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean over channels of the squared difference.

    Args:
      student: [..., C] float.
      teacher: [..., C] float; no gradient flows into it.

    Returns:
      [...] float32, >= 0.

    Raises:
      ValueError: the shapes differ.

    Source:
      Romero et al. 2015 (FitNets), eq. 3.

    Example:
      >>> student, teacher = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 1.0])
      >>> round(float(mse(student, teacher)), 4)  # (1 + 4 + 4) / 3
      3.0
    """
    student, teacher = _same_channels(student, teacher)
    return jnp.mean((student - teacher) ** 2, axis=-1)


def unit(x: jax.Array) -> jax.Array:
    """Vectors of length 1 along the last axis; a zero vector stays zero.

    Args:
      x: [..., C] float32.

    Returns:
      [..., C] float32: x / sqrt(sum of x^2 + 1e-12).
    """
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


def cosine(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """1 - cosine similarity over channels.

    Args:
      student: [..., C] float.
      teacher: [..., C] float; no gradient flows into it.

    Returns:
      [...] float32 in [0, 2]; 1 if a vector is 0.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> student, teacher = jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])
      >>> round(float(cosine(student, teacher)), 4)  # 1 - (12 + 12) / (5 * 5)
      0.04
    """
    student, teacher = _same_channels(student, teacher)
    return 1.0 - jnp.sum(unit(student) * unit(teacher), axis=-1)


def relational(
    student: jax.Array, teacher: jax.Array, *, valid: jax.Array | None = None
) -> jax.Array:
    """How differently each position relates to the other positions of its image.

    Memory grows with (h*w)^2; `relational_grid` says what to pool larger maps to.

    Args:
      student: [B, h, w, C] float.
      teacher: [B, h, w, C'] float (channel counts may differ); no gradient flows into it.
      valid: [B, h, w] bool, the positions that each is compared with; None for all.

    Returns:
      [B, h, w] float32 in [0, 4]: at position i the mean over valid j of the squared difference
        between the two cosine similarities of i and j.

    Raises:
      ValueError: the maps differ in batch, height or width.

    Source:
      After Liu et al. 2019 (structured knowledge distillation), eq. 2-3; docs/method.md.

    Example:
      >>> student = jnp.array([[[[2.0, 0.0], [0.0, 3.0]]]])  # cosine 0
      >>> teacher = jnp.array([[[[1.0, 0.0], [3.0, 4.0]]]])  # cosine 3/5
      >>> [round(float(x), 4) for x in relational(student, teacher)[0, 0]]  # (0 + (3/5)^2) / 2
      [0.18, 0.18]
    """
    student, teacher = _pair(student, teacher)
    batch, height, width, _ = student.shape
    if valid is not None:
        student, teacher = zero_outside(valid, student, teacher)

    def similarity(x: jax.Array) -> jax.Array:
        flat = unit(x.reshape(batch, height * width, -1))
        return jnp.einsum("bic,bjc->bij", flat, flat, precision=jax.lax.Precision.HIGHEST)

    difference = (similarity(student) - similarity(teacher)) ** 2
    if valid is None:
        return difference.mean(-1).reshape(batch, height, width)
    weight = valid.reshape(batch, 1, -1).astype(difference.dtype)
    mean = jnp.sum(difference * weight, -1) / jnp.maximum(1.0, weight.sum(-1))
    return mean.reshape(batch, height, width)


def relational_grid(x: jax.Array) -> tuple[int, ...]:
    """The grid that a map [B, h, w, C] is pooled to for `relational`: 32x32 at most."""
    return tuple(min(n, MAX_RELATIONAL_GRID) for n in x.shape[1:3])


DIVERGENCES: dict[str, Callable[..., jax.Array]] = {
    "kl": kl,
    "kl_ln": kl_ln,
    "mse": mse,
    "cosine": cosine,
    "relational": relational,
}


def get_divergence(name: str) -> Callable[..., jax.Array]:
    """The divergence of that name.

    Args:
      name: a key of `DIVERGENCES`.

    Returns:
      A function of student and teacher, unreduced.

    Raises:
      ValueError: an unknown name; the message lists the valid ones.

    Example:
      >>> float(get_divergence("mse")(jnp.array([1.0]), jnp.array([3.0])))  # (1 - 3)^2
      4.0
    """
    if name not in DIVERGENCES:
        raise unknown("divergence", name, DIVERGENCES)
    return DIVERGENCES[name]
