"""One optimizer for each TrainState, by the conventions of its family."""

import math

import jax
import jax.numpy as jnp
import optax

from collabseg_jax.errors import InputError, unknown


def poly_schedule(lr: float, *, steps: int, power: float, warmup_steps: int = 0) -> optax.Schedule:
    """lr * (1 - step / steps) ** power, after a linear warm-up from lr * 1e-6.

    Source: Chen et al. 2017 (poly); Xie et al. 2021 (with warm-up).
    """

    def schedule(step):
        value = lr * (1 - jnp.minimum(step / steps, 1.0)) ** power
        if warmup_steps > 0:
            value *= jnp.minimum(1.0, jnp.maximum(step / warmup_steps, 1e-6))
        return value

    return schedule


def _decayed(params):
    """True for kernels; norms and biases (rank 1) are not decayed."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _head_scale(params, multiplier: float):
    """`multiplier` for everything outside the encoder (the `backbone` subtree), else 1."""
    return {
        name: jax.tree.map(lambda _, n=name: 1.0 if n == "backbone" else multiplier, subtree)
        for name, subtree in params.items()
    }


def _scale_head(multiplier: float) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        scales = _head_scale(updates, multiplier)
        return jax.tree.map(lambda u, s: u * s, updates, scales), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def build(
    optimizer: str,
    *,
    lr: float,
    steps: int,
    warmup_steps: int = 0,
    power: float = 1.0,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    head_lr_mult: float = 1.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """SGD with momentum or AdamW (0.9, 0.999) under a poly schedule.

    Args:
      optimizer: "sgd" (weight decay is added to the gradient, as in torch) or "adamw".
      lr: of the encoder; everything else has `head_lr_mult` times it.
      steps, warmup_steps, power: see `poly_schedule`.
      weight_decay: of kernels; none on norms and biases.
      clip_norm: global norm that this part's gradient is clipped to; 0 for no clipping.
    Raises:
      ValueError: unknown optimizer, or a number that cannot be.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}, expected at least 1")
    numbers = {"lr": lr, "power": power, "weight_decay": weight_decay, "momentum": momentum}
    numbers |= {"head_lr_mult": head_lr_mult, "clip_norm": clip_norm}
    for key, value in numbers.items():
        if not 0 <= value < (1 if key == "momentum" else math.inf):
            least = "in [0, 1)" if key == "momentum" else "a finite number >= 0"
            raise InputError(f"{key} is {value}, expected {least}")
    if warmup_steps >= steps:
        raise InputError(f"warmup_steps is {warmup_steps}, expected fewer than steps = {steps}")
    decay = optax.add_decayed_weights(weight_decay, mask=_decayed)
    if optimizer == "sgd":
        chain = [decay, optax.trace(decay=momentum)]
    elif optimizer == "adamw":
        chain = [optax.scale_by_adam(), decay]
    else:
        raise unknown("optimizer", optimizer, ("sgd", "adamw"))
    if clip_norm > 0:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if head_lr_mult != 1.0:
        chain.append(_scale_head(head_lr_mult))
    schedule = poly_schedule(lr, steps=steps, power=power, warmup_steps=warmup_steps)
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule))
