"""Cross-entropy and KL divergence of softmaxes over the last axis."""

import jax
import jax.numpy as jnp

# Both gradients are a difference of probabilities. Autodiff would not see that, and take another
# sum over classes and several passes over [..., K].


@jax.custom_vjp
def softmax_cross_entropy(logits, labels):
    """-log softmax(logits)[label].

    Args:
      logits: [..., K] float32.
      labels: [...] integer; where not in [0, K) the result is 0 and the gradient that of
        logsumexp: mask both.
    Returns:
      [...] float32, nats.
    """
    return _cross_entropy_forward(logits, labels)[0]


def _hits(labels, count):
    # A comparison instead of a gather: elementwise, also on the way back.
    return labels[..., None] == jnp.arange(count, dtype=jnp.int32)


def _cross_entropy_forward(logits, labels):
    log_p = jax.nn.log_softmax(logits)
    value = -jnp.sum(jnp.where(_hits(labels, logits.shape[-1]), log_p, 0.0), axis=-1)
    return value, (log_p, labels)


def _cross_entropy_backward(saved, g):
    log_p, labels = saved
    hits = _hits(labels, log_p.shape[-1]).astype(log_p.dtype)
    return g[..., None] * (jnp.exp(log_p) - hits), None


softmax_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


@jax.custom_vjp
def softmax_kl(student, teacher):
    """KL(softmax(teacher) || softmax(student)); the teacher gets no gradient.

    Args:
      student, teacher: [..., K] float32.
    Returns:
      [...] float32, nats.
    """
    return _kl_forward(student, teacher)[0]


def _kl_forward(student, teacher):
    log_s, log_t = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    return jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1), (log_s, log_t)


def _kl_backward(saved, g):
    log_s, log_t = saved
    return g[..., None] * (jnp.exp(log_s) - jnp.exp(log_t)), jnp.zeros_like(log_t)


softmax_kl.defvjp(_kl_forward, _kl_backward)
