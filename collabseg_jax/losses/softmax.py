"""Cross-entropy and KL divergences of softmaxes over the last axis."""

import jax
import jax.numpy as jnp

# Each gradient of the two custom functions is a difference of probabilities. Autodiff would not
# see that: it would take another sum over classes and several passes over [..., K]. optax has a
# cross-entropy of the same values; alone it is as fast, but in the whole pixel part of a step,
# where the same logits enter the KL divergences too, this one wins.


@jax.custom_vjp
def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label].

    Args:
      logits: [..., K] float32.
      labels: [...] integer; where one is not in [0, K) the result is 0 and the gradient is that
        of logsumexp: mask both.

    Returns:
      [...] float32, nats.
    """
    return _cross_entropy_forward(logits, labels)[0]


def _hits(labels: jax.Array, count: int) -> jax.Array:
    # A comparison instead of a gather: elementwise, in the backward pass too.
    return labels[..., None] == jnp.arange(count, dtype=jnp.int32)


def _cross_entropy_forward(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    log_p = jax.nn.log_softmax(logits)
    value = -jnp.sum(jnp.where(_hits(labels, logits.shape[-1]), log_p, 0.0), axis=-1)
    return value, (log_p, labels)


def _cross_entropy_backward(
    saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, None]:
    log_p, labels = saved
    hits = _hits(labels, log_p.shape[-1]).astype(log_p.dtype)
    return g[..., None] * (jnp.exp(log_p) - hits), None


softmax_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


@jax.custom_vjp
def softmax_kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """KL(softmax(teacher) || softmax(student)); the teacher gets no gradient.

    Args:
      student: [..., K] float32, logits.
      teacher: [..., K] float32, logits.

    Returns:
      [...] float32, nats, >= 0.
    """
    return _kl_forward(student, teacher)[0]


def _kl_forward(
    student: jax.Array, teacher: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    log_s, log_t = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    return jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1), (log_s, log_t)


def _kl_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    log_s, log_t = saved
    return g[..., None] * (jnp.exp(log_s) - jnp.exp(log_t)), jnp.zeros_like(log_t)


softmax_kl.defvjp(_kl_forward, _kl_backward)
