"""The dtype that sums and norms are computed in."""

from typing import Any

import jax.numpy as jnp


def wide_dtype(x: Any) -> Any:
    """The dtype for sums over an array: float32, or float64 if the array is float64.

    Args:
      x: a float array, or anything else with a dtype.

    Returns:
      The dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> str(ops.wide_dtype(jnp.ones(3, jnp.bfloat16)))
      'float32'
    """
    return jnp.promote_types(x.dtype, jnp.float32)
