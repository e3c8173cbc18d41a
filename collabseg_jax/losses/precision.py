"""The type that losses are computed in."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """`x` in the type that the maths runs in: float32, or float64 if `x` is float64.

    Args:
      x: [...] float, integer or bool.

    Returns:
      [...] float32 or float64.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
