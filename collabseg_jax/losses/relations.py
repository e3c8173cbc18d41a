"""Relations inside a map: no student needs the other's channels, so nothing is learned."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.cells import cell_label, cell_max, on_one_grid, valid_cells
from collabseg_jax.losses.divergences import masked_kl, relational, unit
from collabseg_jax.losses.reduce import masked_mean

EXACT = jax.lax.Precision.HIGHEST


def skd(student: jax.Array, teacher: jax.Array, valid: jax.Array, *, grid: int = 2) -> jax.Array:
    """Pairwise term of structured knowledge distillation, the loss of one student.

    Each map is max-pooled to a small grid over its positions with at least one valid pixel. Then
    the cosine similarities between the cells of an image are compared.

    Args:
      student: [B, h, w, C] float, last features.
      teacher: [B, h', w', C'] float, last features; no gradient flows into it.
      valid: [B, H, W] bool.
      grid: int >= 1, the most cells along each axis (2 is pooling with a kernel of half the map).

    Returns:
      Scalar float32 in [0, 4]: the mean over cells i with a valid pixel of the mean over such
        cells j of the same image of the squared difference of the two similarities of i and j.

    Source:
      Liu et al. 2019 (structured knowledge distillation), pair-wise distillation. Widespread
      code stops the gradient of the norm in the cosine; here it is that of the formula.

    Example:
      >>> student = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # cosine 0
      >>> teacher = jnp.array([[[[1.0, 0.0], [1.0, 0.0]]]])  # cosine 1
      >>> round(float(skd(student, teacher, jnp.ones((1, 1, 2), bool))), 4)  # (0 + 1) / 2
      0.5
    """
    sizes = zip(student.shape[1:3], teacher.shape[1:3], strict=True)
    cells = tuple(min(grid, *pair) for pair in sizes)
    (student, here), (teacher, there) = (
        cell_max(x, valid_cells(valid, x.shape[1:3]), cells) for x in (student, teacher)
    )
    where = here & there
    return masked_mean(relational(student, teacher, valid=where), where)


def _members(labels: jax.Array, valid: jax.Array, where: jax.Array, num_classes: int) -> jax.Array:
    """[B, h, w, K] bool: the most frequent class of each position that counts."""
    label = cell_label(labels, valid, where.shape[1:], num_classes=num_classes)
    return (label[..., None] == jnp.arange(num_classes)) & where[..., None]


def _class_means(x: jax.Array, members: jax.Array) -> jax.Array:
    """[B, K, C] means of x [B, h, w, C] over each class's positions, 0 for an absent class."""
    members = members.astype(x.dtype)
    total = jnp.einsum("bhwk,bhwc->bkc", members, x, precision=EXACT)
    return total / jnp.maximum(1.0, members.sum((1, 2)))[..., None]


def ifvd(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    *,
    num_classes: int,
) -> jax.Array:
    """Intra-class feature variation, the loss of one student.

    Maps of different sizes are averaged to the coarser grid first. A position's class is the most
    frequent of its valid pixels.

    Args:
      student: [B, h, w, C] float, last features.
      teacher: [B, h', w', C'] float, last features; no gradient flows into it.
      labels: [B, H, W] integer; anything where not valid.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
      num_classes: K.

    Returns:
      Scalar float32 in [0, 4], the mean over positions that count of the squared difference
        between the students' cosine similarities of a position and the mean of its class's
        positions in the same image.

    Source:
      Wang et al. 2020 (IFVD); labels by majority instead of the nearest pixel's.

    Example:
      >>> student = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # 1/sqrt(2) to their mean
      >>> teacher = jnp.array([[[[1.0, 0.0], [1.0, 0.0]]]])  # 1 to their mean
      >>> labels, valid = jnp.zeros((1, 1, 2), int), jnp.ones((1, 1, 2), bool)
      >>> loss = ifvd(student, teacher, labels, valid, num_classes=2)
      >>> round(float(loss), 4)  # (1 - 1/sqrt(2))^2
      0.0858
    """
    student, teacher, where = on_one_grid(student, jax.lax.stop_gradient(teacher), valid)
    members = _members(labels, valid, where, num_classes)

    def similarity(x: jax.Array) -> jax.Array:
        means = _class_means(x, members)
        own = jnp.einsum("bhwk,bkc->bhwc", members.astype(x.dtype), means, precision=EXACT)
        return jnp.sum(unit(x) * unit(own), -1)

    return masked_mean((similarity(student) - similarity(teacher)) ** 2, where)


def cirkd(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    *,
    num_classes: int,
    temperature: float = 0.1,
    pixel: float = 1.0,
    region: float = 0.1,
) -> jax.Array:
    """Cross-image relations within the batch, the loss of one student.

    Pixel to pixel: for a position of one image, the cosine similarities to all positions of
    another (or the same) image, as a distribution. Pixel to region: the similarities to the mean
    of each class in each image of the batch. Maps of different sizes are averaged to the coarser
    grid first. Positions without a valid pixel are on neither side. Memory grows with (B*h*w)^2.

    Args:
      student: [B, h, w, C] float, last features.
      teacher: [B, h', w', C'] float, last features; no gradient flows into it.
      labels: [B, H, W] integer; a position's class is the most frequent of its valid pixels.
      valid: [B, H, W] bool; a position counts where any of its cell's pixels is valid.
      num_classes: K.
      temperature: float > 0, divides the similarities.
      pixel: float >= 0, weight of pixel to pixel; 0 removes it.
      region: float >= 0, weight of pixel to region; 0 removes it.

    Returns:
      Scalar float32, nats: pixel * the mean over (position, image) of KL(teacher || student) over
        that image's positions + region * the mean over positions of the KL over all regions.

    Source:
      Yang et al. 2022 (CIRKD), mini-batch pixel-to-pixel and pixel-to-region, at its weights.
      Regions are those of the batch, of each student's own features: no memory bank.

    Example:
      >>> student = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]])  # similarities (1, 0) and (0, 1)
      >>> teacher = jnp.array([[[[1.0, 0.0], [1.0, 0.0]]]])  # (1, 1) and (1, 1)
      >>> labels, valid = jnp.zeros((1, 1, 2), int), jnp.ones((1, 1, 2), bool)
      >>> options = {"num_classes": 2, "temperature": 1.0, "region": 0.0}
      >>> loss = cirkd(student, teacher, labels, valid, **options)
      >>> round(float(loss), 4)  # of (1/2, 1/2) from softmax(1, 0): ln(1 + 1/e) + 1/2 - ln 2
      0.1201
    """
    student, teacher, where = on_one_grid(student, jax.lax.stop_gradient(teacher), valid)
    batch, n = where.shape[0], where[0].size
    here = where.reshape(batch, n)
    embedded = [unit(x) for x in (student, teacher)]
    value = jnp.zeros((), student.dtype)
    if pixel > 0:
        flat = [x.reshape(batch, n, -1) for x in embedded]
        rows = [jnp.einsum("ipc,jqc->ipjq", x, x, precision=EXACT) / temperature for x in flat]
        distance = masked_kl(rows[0], rows[1], here[None, None])
        value += pixel * masked_mean(distance, here[..., None] & here.any(-1))
    if region > 0:
        members = _members(labels, valid, where, num_classes)
        exists = members.any((1, 2)).reshape(-1)
        rows = []
        for x in embedded:
            regions = unit(_class_means(x, members)).reshape(batch * num_classes, -1)
            positions = x.reshape(batch, n, -1)
            products = jnp.einsum("ipc,rc->ipr", positions, regions, precision=EXACT)
            rows.append(products / temperature)
        value += region * masked_mean(masked_kl(rows[0], rows[1], exists), here)
    return value
