"""The one reducer of the losses, and its weighted form."""

import jax
import jax.numpy as jnp

from collabseg_jax.losses.precision import widen


def masked_mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of the selected values: sum / max(1, count).

    Args:
      values: [...] float.
      where: [...] bool, same shape. Values outside it may be anything, NaN too.

    Returns:
      Scalar float32; 0 where nothing is selected.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> values = jnp.array([1.0, 2.0, 6.0])
      >>> where = jnp.array([True, False, True])
      >>> float(masked_mean(values, where))  # (1 + 6) / 2
      3.5
    """
    if values.shape != where.shape:
        raise ValueError(f"values {values.shape} and where {where.shape} differ in shape")
    kept = jnp.where(where, widen(values), 0.0)
    return kept.sum() / jnp.maximum(1, where.sum())


def weighted_mean(values: jax.Array, weights: jax.Array, where: jax.Array) -> jax.Array:
    """Weighted mean of the selected values: sum of weight * value / sum of weights.

    Args:
      values: [...] float.
      weights: [...] float, >= 0, same shape.
      where: [...] bool, same shape. Values and weights outside it may be anything, NaN too.

    Returns:
      Scalar float32; 0 where nothing is selected, or nothing with a weight.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> values, weights = jnp.array([1.0, 4.0, 9.0]), jnp.array([3.0, 1.0, 5.0])
      >>> where = jnp.array([True, True, False])
      >>> float(weighted_mean(values, weights, where))  # (3 * 1 + 1 * 4) / (3 + 1)
      1.75
    """
    if not values.shape == weights.shape == where.shape:
        raise ValueError(
            f"values {values.shape}, weights {weights.shape} and where {where.shape} differ in "
            "shape"
        )
    weights = jnp.where(where, widen(weights), 0.0)
    kept = jnp.where(where, widen(values), 0.0)
    total = weights.sum()
    return (weights * kept).sum() / jnp.where(total > 0, total, 1.0)


def zero_outside(where: jax.Array, *maps: jax.Array) -> tuple[jax.Array, ...]:
    """The maps with 0 at positions that are not selected.

    Masked before the maths: a NaN at an ignored pixel must reach neither value nor gradient.

    Args:
      where: [B, h, w] bool.
      *maps: [B, h, w, C] each.

    Returns:
      [B, h, w, C] each, of unchanged types.
    """
    return tuple(jnp.where(where[..., None], x, 0.0) for x in maps)
