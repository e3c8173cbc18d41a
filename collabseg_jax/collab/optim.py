"""One optimizer for each TrainState, by the conventions of its family."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from collabseg_jax.errors import InputError, unknown


def poly_schedule(lr: float, *, steps: int, power: float, warmup_steps: int = 0) -> optax.Schedule:
    """lr * (1 - step / steps) ** power, after a linear warm-up from lr * 1e-6.

    Args:
      lr: at the start.
      steps: of the run; the rate is 0 there and after it.
      power: of the decay.
      warmup_steps: 0 for none.

    Source: Chen et al. 2017 (poly); Xie et al. 2021 (with warm-up).

    Example:
      >>> schedule = poly_schedule(0.1, steps=100, power=1.0)
      >>> round(float(schedule(75)), 4)
      0.025
    """

    decay = optax.polynomial_schedule(lr, 0.0, power, steps)
    if warmup_steps == 0:
        return decay

    def warmed_up(step: Any) -> Any:
        return decay(step) * jnp.minimum(1.0, jnp.maximum(step / warmup_steps, 1e-6))

    return warmed_up


def _decayed(params: Any) -> Any:
    """True for kernels; norms and biases (rank 1) are not decayed."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _scale_head(multiplier: float) -> optax.GradientTransformation:
    """Scale the updates of everything outside the encoder (the `backbone` subtree)."""

    def scale(updates: Any, params: Any) -> Any:
        del params
        return {
            name: subtree if name == "backbone" else optax.tree.scale(multiplier, subtree)
            for name, subtree in updates.items()
        }

    # Not `optax.masked`: that has a state of its own, and the checkpoints of 0.1.0 have none.
    return optax.stateless(scale)


def build_optimizer(
    optimizer: str,
    *,
    lr: float,
    steps: int,
    warmup_steps: int = 0,
    power: float = 1.0,
    weight_decay: float = 0.0,
    momentum: float | None = None,
    head_lr_mult: float = 1.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """SGD with momentum or AdamW (0.9, 0.999) under a poly schedule.

    Args:
      optimizer: "sgd" (weight decay is added to the gradient, as in torch) or "adamw".
      lr: of the encoder; everything else has `head_lr_mult` times it.
      steps: see `poly_schedule`.
      warmup_steps: see `poly_schedule`.
      power: see `poly_schedule`.
      weight_decay: of kernels; none on norms and biases.
      momentum: of "sgd", in [0, 1); None for 0.9. "adamw" has none.
      head_lr_mult: see `lr`.
      clip_norm: global norm that this part's gradient is clipped to; 0 for no clipping.

    Raises:
      InputError: unknown optimizer, or a number out of range.
    """
    if steps < 1:
        raise InputError(f"steps is {steps}, expected at least 1")
    if optimizer not in ("sgd", "adamw"):
        raise unknown("optimizer", optimizer, ("sgd", "adamw"))
    if optimizer == "adamw" and momentum is not None:
        raise InputError(f"momentum is {momentum}, expected none with adamw: its betas are fixed")
    momentum = 0.9 if momentum is None else momentum
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
    else:
        chain = [optax.scale_by_adam(), decay]
    if clip_norm > 0:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if head_lr_mult != 1.0:
        chain.append(_scale_head(head_lr_mult))
    schedule = poly_schedule(lr, steps=steps, power=power, warmup_steps=warmup_steps)
    return optax.chain(*chain, optax.scale_by_learning_rate(schedule))
