"""GELU."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from collabseg_jax.ops.backend import formulation


def gelu(x):
    """Exact GELU, x * Phi(x) with the normal distribution's Phi (erf, not tanh).

    Args:
      x: float array of any shape.
    Returns:
      An array of x's shape and dtype; computed in float32.
    Source: Hendrycks and Gimpel 2016, eq. 1.
    """
    if formulation() == "plain":
        return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)
    return _gelu(x)


def _phi(x):
    return 0.5 * (1 + lax.erf(x * math.sqrt(0.5)))


@jax.custom_vjp
def _gelu(x):
    wide = x.astype(jnp.float32)
    return (wide * _phi(wide)).astype(x.dtype)


def _forward(x):
    return _gelu(x), x


def _backward(x, g):
    # Recomputing erf from x costs less than autodiff's extra arrays in memory.
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return ((g * (_phi(wide) + wide * density)).astype(x.dtype),)


_gelu.defvjp(_forward, _backward)
