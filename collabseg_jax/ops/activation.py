"""GELU."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.precision import wide_dtype


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU: x * Phi(x) with the normal distribution's Phi (erf, not tanh).

    Args:
      x: float array of any shape.

    Returns:
      An array of x's shape and dtype, computed in float32 or wider.

    Source:
      Hendrycks and Gimpel 2016, eq. 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> ops.gelu(jnp.array([0.0, 10.0])).tolist()
      [0.0, 10.0]
    """
    if formulation() == "plain":
        return jax.nn.gelu(x.astype(wide_dtype(x)), approximate=False).astype(x.dtype)
    return _gelu(x)


def _phi(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def _gelu(x: jax.Array) -> jax.Array:
    wide = x.astype(wide_dtype(x))
    return (wide * _phi(wide)).astype(x.dtype)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gelu(x), x


def _backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    # To recompute erf from x costs less than the extra arrays that autodiff keeps in memory.
    wide = x.astype(wide_dtype(x))
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return ((g * (_phi(wide) + wide * density)).astype(x.dtype),)


_gelu.defvjp(_forward, _backward)
