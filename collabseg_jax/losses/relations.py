"""Relations inside a map: no student needs the other's channels, so nothing is learned."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.divergences import masked_kl, relational, unit
from collabseg_jax.losses.reduce import cell_label, cell_max, masked_mean, on_one_grid, valid_cells

EXACT = jax.lax.Precision.HIGHEST


def skd(student, teacher, valid, *, grid=2):
    """Pairwise term of structured knowledge distillation, the loss of one student.

    Each map is max-pooled to a small grid over its positions with at least one valid pixel; what
    is compared are the cosine similarities between the cells of an image.

    Args:
      student, teacher: last features [B, h, w, C] and [B, h', w', C']; the teacher is stopped.
      valid: [B, H, W] bool.
      grid: cells along each axis, at most (2 is pooling with a kernel of half the map).
    Returns:
      scalar float32: the mean over cells i with a valid pixel of the mean over such cells j of
      the same image of the squared difference of the two similarities of i and j.
    Source: Liu et al. 2019 (structured knowledge distillation), pair-wise distillation. Widespread
      code stops the norm in the cosine; here the gradient is that of the formula.
    """
    sizes = zip(student.shape[1:3], teacher.shape[1:3], strict=True)
    cells = tuple(min(grid, *pair) for pair in sizes)
    (student, here), (teacher, there) = (
        cell_max(x, valid_cells(valid, x.shape[1:3]), cells) for x in (student, teacher)
    )
    where = here & there
    return masked_mean(relational(student, teacher, valid=where), where)


def _members(labels, valid, where, num_classes):
    """[B, h, w, K] float32: 1 where a position that counts has its cell's most frequent class."""
    label = cell_label(labels, valid, where.shape[1:], num_classes=num_classes)
    member = (label[..., None] == jnp.arange(num_classes)) & where[..., None]
    return member.astype(jnp.float32)


def _class_means(x, members):
    """[B, K, C] means of x [B, h, w, C] over each class's positions, 0 for an absent class."""
    total = jnp.einsum("bhwk,bhwc->bkc", members, x, precision=EXACT)
    return total / jnp.maximum(1.0, members.sum((1, 2)))[..., None]


def ifvd(student, teacher, labels, valid, *, num_classes):
    """Intra-class feature variation, the loss of one student.

    Args:
      student, teacher: last features [B, h, w, C] and [B, h', w', C'], brought together by
        `on_one_grid`; the teacher is stopped.
      labels: [B, H, W] integer; a position's class is the most frequent of its valid pixels.
      valid: [B, H, W] bool.
      num_classes: K.
    Returns:
      scalar float32, the mean over positions with a valid pixel of the squared difference
      between the students' cosine similarities of a position and the mean of its class's
      positions in the same image.
    Source: Wang et al. 2020 (IFVD); labels by majority instead of the nearest pixel's.
    """
    student, teacher, where = on_one_grid(student, jax.lax.stop_gradient(teacher), valid)
    members = _members(labels, valid, where, num_classes)

    def similarity(x):
        mean = jnp.einsum("bhwk,bkc->bhwc", members, _class_means(x, members), precision=EXACT)
        return jnp.sum(unit(x) * unit(mean), -1)

    return masked_mean((similarity(student) - similarity(teacher)) ** 2, where)


def cirkd(
    student,
    teacher,
    labels,
    valid,
    *,
    num_classes,
    temperature=0.1,
    pixel=1.0,
    region=0.1,
):
    """Cross-image relations within the batch, the loss of one student.

    Pixel to pixel: for a position of one image, the cosine similarities to all positions of
    another (or the same) image, as a distribution. Pixel to region: the similarities to the mean
    of each class in each image of the batch.

    Args:
      student, teacher: last features [B, h, w, C] and [B, h', w', C'], brought together by
        `on_one_grid`; the teacher is stopped.
      labels: [B, H, W] integer; a position's class is the most frequent of its valid pixels.
      valid: [B, H, W] bool.
      num_classes: K.
      temperature: divides the similarities.
      pixel, region: weights of the two parts; 0 removes one.
    Returns:
      scalar float32: pixel * the mean over (position, image) of KL(teacher || student) over that
      image's positions + region * the mean over positions of the KL over all regions. Positions
      without a valid pixel are on neither side. Memory grows with (B*h*w)^2.
    Source: Yang et al. 2022 (CIRKD), mini-batch pixel-to-pixel and pixel-to-region, at its
      weights. Regions are those of the batch, of each student's own features: no memory bank.
    """
    student, teacher, where = on_one_grid(student, jax.lax.stop_gradient(teacher), valid)
    batch, n = where.shape[0], where[0].size
    here = where.reshape(batch, n)
    embedded = [unit(x) for x in (student, teacher)]
    value = jnp.zeros((), jnp.float32)
    if pixel > 0:
        flat = [x.reshape(batch, n, -1) for x in embedded]
        rows = [jnp.einsum("ipc,jqc->ipjq", x, x, precision=EXACT) / temperature for x in flat]
        distance = masked_kl(*rows, here[None, None])
        value += pixel * masked_mean(distance, here[..., None] & here.any(-1))
    if region > 0:
        members = _members(labels, valid, where, num_classes)
        exists = members.any((1, 2)).reshape(-1)
        rows = []
        for x in embedded:
            regions = unit(_class_means(x, members)).reshape(batch * num_classes, -1)
            flat = x.reshape(batch, n, -1)
            rows.append(jnp.einsum("ipc,rc->ipr", flat, regions, precision=EXACT) / temperature)
        value += region * masked_mean(masked_kl(*rows, exists), here)
    return value
