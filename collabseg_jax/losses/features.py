"""Last features (or logits) compared value by value, after a projection where channels differ."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.cells import on_one_grid, valid_cells
from collabseg_jax.losses.divergences import masked_kl, mse
from collabseg_jax.losses.precision import widen
from collabseg_jax.losses.reduce import masked_mean, zero_outside


def at(student: jax.Array, teacher: jax.Array, valid: jax.Array) -> jax.Array:
    """Attention transfer, the loss of one student.

    Maps of different sizes are averaged to the coarser grid first.

    Args:
      student: [B, h, w, C] float, last features.
      teacher: [B, h', w', C'] float, last features; no gradient flows into it.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.

    Returns:
      Scalar float32, the mean over positions that count of the squared difference of the
        attention maps: mean over channels of the squares, divided by the map's L2 norm over the
        image's positions.

    Source:
      Zagoruyko & Komodakis 2017, eq. 2 with F_mean^2, as their code has it.

    Example:
      >>> student = jnp.array([[[[1.0], [1.0]]]])  # attention (1, 1) / sqrt(2)
      >>> teacher = jnp.array([[[[1.0], [0.0]]]])  # attention (1, 0)
      >>> round(float(at(student, teacher, jnp.ones((1, 1, 2), bool))), 4)  # 1 - 1/sqrt(2)
      0.2929
    """
    student, teacher, where = on_one_grid(student, jax.lax.stop_gradient(teacher), valid)

    def attention(x: jax.Array) -> jax.Array:
        energy = jnp.mean(x**2, -1)
        return energy * jax.lax.rsqrt(jnp.sum(energy**2, (1, 2), keepdims=True) + 1e-12)

    return masked_mean((attention(student) - attention(teacher)) ** 2, where)


def fitnet(student: jax.Array, teacher: jax.Array, valid: jax.Array) -> jax.Array:
    """Hint loss of one student: its projected features are to equal the teacher's.

    Args:
      student: [B, h, w, C] float, its last features in the teacher's shape.
      teacher: [B, h, w, C] float, last features; no gradient flows into it.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.

    Returns:
      Scalar float32, the mean over positions that count and channels of the squared difference.

    Raises:
      ValueError: the shapes of the features differ.

    Source:
      Romero et al. 2015 (FitNets), eq. 3, without its factor 1/2.

    Example:
      >>> student = jnp.array([[[[0.0], [0.0]]]])
      >>> teacher = jnp.array([[[[1.0], [2.0]]]])
      >>> float(fitnet(student, teacher, jnp.ones((1, 1, 2), bool)))  # (1 + 4) / 2
      2.5
    """
    where = valid_cells(valid, teacher.shape[1:3])
    return masked_mean(mse(*zero_outside(where, student, teacher)), where)


def cwd(
    student: jax.Array, teacher: jax.Array, valid: jax.Array, *, temperature: float = 4.0
) -> jax.Array:
    """Channel-wise distillation, the loss of one student: where in the image is each channel?

    Args:
      student: [B, h, w, C] float, logits, or features in the teacher's shape.
      teacher: [B, h, w, C] float, logits or features; no gradient flows into it.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
      temperature: float > 0, of the softmax over positions.

    Returns:
      Scalar float32, nats: T^2 times the mean over channels and over images with a position
        that counts of KL(teacher || student) of the softmax over those positions.

    Source:
      Shu et al. 2021 (CWD).

    Example:
      >>> student = jnp.zeros((1, 1, 2, 1))  # one channel, probabilities 1/2, 1/2
      >>> teacher = jnp.log(jnp.array([[[[3.0], [1.0]]]]))  # 3/4, 1/4
      >>> loss = cwd(student, teacher, jnp.ones((1, 1, 2), bool), temperature=1.0)
      >>> round(float(loss), 4)  # 3/4 ln(3/2) + 1/4 ln(1/2)
      0.1308
    """
    where = valid_cells(valid, teacher.shape[1:3])
    batch, _, _, channels = teacher.shape
    teacher = jax.lax.stop_gradient(teacher)

    def scores(x: jax.Array) -> jax.Array:
        (x,) = zero_outside(where, widen(x))
        return jnp.moveaxis((x / temperature).reshape(batch, -1, channels), 1, 2)  # [B, C, n]

    here = where.reshape(batch, 1, -1)
    distance = temperature**2 * masked_kl(scores(student), scores(teacher), here)
    return masked_mean(distance, jnp.broadcast_to(here.any(-1), distance.shape))


def mgd(generated: jax.Array, teacher: jax.Array, valid: jax.Array) -> jax.Array:
    """Masked generative distillation, the loss of one student.

    It is a sum over positions, so its size grows with the map's.

    Args:
      generated: [B, h, w, C] float, what the generator makes of the student's projected last
        features after positions were masked at random.
      teacher: [B, h, w, C] float, last features; no gradient flows into it.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.

    Returns:
      Scalar float32: the squared difference, summed over channels and positions that count, mean
        over the images that have any.

    Raises:
      ValueError: the shapes of the features differ.

    Source:
      Yang et al. 2022 (MGD).

    Example:
      >>> generated = jnp.array([[[[0.0], [0.0]]]])
      >>> teacher = jnp.array([[[[1.0], [2.0]]]])
      >>> float(mgd(generated, teacher, jnp.ones((1, 1, 2), bool)))  # 1 + 4
      5.0
    """
    where = valid_cells(valid, teacher.shape[1:3])
    distance = mse(*zero_outside(where, generated, teacher))
    total = jnp.sum(distance, (1, 2)) * teacher.shape[-1]
    return masked_mean(total, where.any((1, 2)))
