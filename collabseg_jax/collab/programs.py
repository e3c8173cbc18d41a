"""The steps and views of a run as compiled programs. Nothing else in this room is jitted."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from collabseg_jax import losses
from collabseg_jax.collab.augment import normalize
from collabseg_jax.collab.inference import Inference, apply_students, label_maps
from collabseg_jax.collab.objective import Objective
from collabseg_jax.collab.pair import STUDENTS, Pair
from collabseg_jax.collab.sharding import Layout, replicated
from collabseg_jax.collab.step import eval_step, gradient_norms, train_step


def jit_train_step(
    layout: Layout,
    *,
    pair: Pair,
    objective: Objective,
    optimizers: Mapping[str, optax.GradientTransformation],
    jitter: Mapping[str, float],
) -> Any:
    """`train_step` compiled for batches of a `sharding.Layout`; the state is donated."""
    step = functools.partial(
        train_step, pair=pair, objective=objective, optimizers=optimizers, jitter=jitter
    )
    everywhere = replicated(layout.mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(everywhere, layout.shardings),
        out_shardings=everywhere,
    )


def jit_gradient_norms(
    layout: Layout, *, pair: Pair, objective: Objective, jitter: Mapping[str, float]
) -> Any:
    """`gradient_norms` compiled for batches of a `sharding.Layout`; the state is not donated."""
    everywhere = replicated(layout.mesh)
    return jax.jit(
        functools.partial(gradient_norms, pair=pair, objective=objective, jitter=jitter),
        in_shardings=(everywhere, layout.shardings),
        out_shardings=everywhere,
    )


def jit_eval_step(
    layout: Layout, *, pair: Pair, num_classes: int, how: Inference = Inference()
) -> Any:
    """`eval_step` compiled for batches of a `sharding.Layout`."""
    everywhere = replicated(layout.mesh)
    return jax.jit(
        functools.partial(eval_step, pair=pair, num_classes=num_classes, how=how),
        in_shardings=(everywhere, layout.shardings["valid"]),  # whole images, whatever the key
        out_shardings=everywhere,
    )


def jit_apply_students(*, pair: Pair, students: Sequence[str], how: Inference) -> Any:
    """`inference.apply_students` compiled on the default device."""
    return jax.jit(functools.partial(apply_students, pair=pair, students=students, how=how))


def jit_label_maps(*, outputs: Sequence[str]) -> Any:
    """`inference.label_maps` compiled on the default device: (logits, shape, sizes) -> maps."""
    maps = functools.partial(label_maps, outputs=outputs)
    return jax.jit(lambda logits, shape, sizes: maps(logits, shape, sizes=sizes), static_argnums=1)


def jit_inspect(*, pair: Pair) -> Any:
    """For pictures: label maps and the cross-entropy of each student, compiled.

    (variables, images uint8 [B, H, W, 3], labels [B, H, W]) ->
    ({student: uint8 [B, H, W]}, {student: float32 [B, H, W], nats}).
    """

    def inspect(
        variables: Mapping[str, Any], images: jax.Array, labels: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        maps, error = {}, {}
        for name in STUDENTS:
            output = getattr(pair, name).apply(variables[name], normalize(images), train=False)
            logits = output.logits_at(labels.shape[1:])
            maps[name] = jnp.argmax(logits, -1).astype(jnp.uint8)
            error[name], _ = losses.cross_entropy(logits, labels)
        return maps, error

    return jax.jit(inspect)
