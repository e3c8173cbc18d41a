"""Last features (or logits) compared value by value, after a projection where channels differ."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.divergences import masked_kl, mse
from collabseg_jax.losses.reduce import masked_mean, on_one_grid, valid_cells


def at(student, teacher, valid):
    """Attention transfer, the loss of one student.

    Args:
      student, teacher: last features [B, h, w, C] and [B, h', w', C'], brought together by
        `on_one_grid`; the teacher is stopped.
      valid: [B, H, W] bool.
    Returns:
      scalar float32, the mean over positions with a valid pixel of the squared difference of the
      attention maps: mean over channels of the squares, divided by the map's L2 norm over the
      image's positions.
    Source: Zagoruyko & Komodakis 2017, eq. 2 with F_mean^2, as their code has it.
    """
    student, teacher, where = on_one_grid(student, jax.lax.stop_gradient(teacher), valid)

    def attention(x):
        energy = jnp.mean(x**2, -1)
        return energy * jax.lax.rsqrt(jnp.sum(energy**2, (1, 2), keepdims=True) + 1e-12)

    return masked_mean((attention(student) - attention(teacher)) ** 2, where)


def fitnet(student, teacher, valid):
    """Hint loss of one student: its projected features are to equal the teacher's.

    Args:
      student: its last features in the teacher's shape, [B, h, w, C].
      teacher: last features [B, h, w, C], stopped.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
    Returns:
      scalar float32, mean over positions and channels of the squared difference.
    Source: Romero et al. 2015 (FitNets), eq. 3, without its factor 1/2.
    """
    where = valid_cells(valid, teacher.shape[1:3])
    student, teacher = (jnp.where(where[..., None], x, 0.0) for x in (student, teacher))
    return masked_mean(mse(student, teacher), where)


def cwd(student, teacher, valid, *, temperature=4.0):
    """Channel-wise distillation, the loss of one student: where in the image is each channel?

    Args:
      student, teacher: logits [B, h, w, K], or features in the teacher's shape [B, h, w, C]; the
        teacher is stopped.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
      temperature: of the softmax over positions.
    Returns:
      scalar float32, T^2 times the mean over channels and over images with a valid position of
      KL(teacher || student) of the softmax over the image's positions that count.
    Source: Shu et al. 2021 (CWD).
    """
    where = valid_cells(valid, teacher.shape[1:3])
    batch, _, _, channels = teacher.shape
    teacher = jax.lax.stop_gradient(teacher)

    def scores(x):
        x = jnp.where(where[..., None], x.astype(jnp.float32), 0.0) / temperature
        return jnp.moveaxis(x.reshape(batch, -1, channels), 1, 2)  # [B, C, n]

    here = where.reshape(batch, 1, -1)
    distance = temperature**2 * masked_kl(scores(student), scores(teacher), here)
    return masked_mean(distance, jnp.broadcast_to(here.any(-1), distance.shape))


def mgd(generated, teacher, valid):
    """Masked generative distillation, the loss of one student.

    Args:
      generated: [B, h, w, C], what the generator makes of the student's projected last features
        after positions were masked at random.
      teacher: last features [B, h, w, C], stopped.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
    Returns:
      scalar float32: the squared difference, summed over positions that count and channels, mean
      over the images that have any. A sum, so its size grows with the map's.
    Source: Yang et al. 2022 (MGD).
    """
    where = valid_cells(valid, teacher.shape[1:3])
    generated, teacher = (jnp.where(where[..., None], x, 0.0) for x in (generated, teacher))
    total = jnp.sum(mse(generated, teacher), (1, 2)) * teacher.shape[-1]
    return masked_mean(total, where.any((1, 2)))
