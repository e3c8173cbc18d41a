"""Scaled dot-product attention."""

import jax
import jax.numpy as jnp

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.precision import wide_dtype


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Compute softmax(q k^T / sqrt(D)) v for each head, with the softmax in float32 or wider.

    Args:
      q: queries, float [B, N, heads, D].
      k: keys, float [B, M, heads, D].
      v: values, float [B, M, heads, D].

    Returns:
      [B, N, heads, D] in q's dtype.

    Raises:
      ValueError: the shapes do not fit together.

    Source:
      Vaswani et al. 2017, eq. 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> q, k = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 3, 1, 4))
      >>> ops.attention(q, k, k).shape
      (1, 2, 1, 4)
    """
    if q.ndim != 4 or k.shape != v.shape or k.shape != (q.shape[0], k.shape[1], *q.shape[2:]):
        raise ValueError(
            f"attention of q {q.shape}, k {k.shape}, v {v.shape}: "
            "expected [B, N, heads, D], [B, M, heads, D], [B, M, heads, D]"
        )
    if formulation() == "plain":
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=wide_dtype(q))
        weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
        return jnp.einsum("bhnm,bmhd->bnhd", weights, v).astype(q.dtype)
    wide = (a.astype(wide_dtype(a)) for a in (q, k, v))
    return _attention(*wide).astype(q.dtype)


@jax.custom_vjp
def _attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return _forward(q, k, v)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    q = (q * q.shape[-1] ** -0.5).transpose(0, 2, 1, 3)
    k = k.transpose(0, 2, 3, 1)
    v = v.transpose(0, 2, 1, 3)
    scores = q @ k
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    total = weights.sum(-1, keepdims=True)
    # To divide D columns after the product instead of M before it saves a pass over [N, M].
    out = weights @ v / total
    return out.transpose(0, 2, 1, 3), (q, k, v, weights, total, out)


def _backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, weights, total, out = saved
    g = g.transpose(0, 2, 1, 3) / total
    d_scores = weights * (g @ v.swapaxes(2, 3) - (g * out).sum(-1, keepdims=True))
    dq = jnp.einsum("bhnm,bhdm->bnhd", d_scores, k) * q.shape[-1] ** -0.5
    dk = jnp.einsum("bhnm,bhnd->bmhd", d_scores, q)
    dv = jnp.einsum("bhnm,bhnd->bmhd", weights, g)
    return dq, dk, dv


_attention.defvjp(_forward, _backward)
