"""Pure steps: both students, the objective, one gradient, all states."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from collabseg_jax.collab.augment import color_jitter, normalize
from collabseg_jax.collab.inference import OUTPUTS, Inference, apply_students, label_maps
from collabseg_jax.collab.objective import Objective, evaluate_objective
from collabseg_jax.collab.pair import PARTS, STUDENTS, Pair, forward
from collabseg_jax.collab.state import CollabState
from collabseg_jax.labels import IGNORE
from collabseg_jax.metrics import confusion_matrix


def train_step(
    state: CollabState,
    batch: Mapping[str, jax.Array],
    *,
    pair: Pair,
    objective: Objective,
    optimizers: Mapping[str, optax.GradientTransformation],
    jitter: Mapping[str, float],
) -> tuple[CollabState, dict[str, jax.Array]]:
    """One step of both students and the bridges; a frozen student stays as it is.

    Where a loss or a gradient is not finite, all parts stay as they are and the step is counted as
    skipped: what one student cannot learn from would spoil the other through the next step.

    Args:
      state: CollabState.
      batch: image uint8 [B, H, W, 3], label uint8 [B, H, W] with 255 = ignore, valid bool [B].
      pair: what `state` belongs to.
      objective: the losses.
      optimizers: {part that learns: its optimizer}.
      jitter: keyword arguments of `augment.color_jitter`.

    Returns:
      the next state; logs {name: float32 scalar}.
    """
    learning = [name for name in PARTS if name not in pair.frozen]

    def loss(params: dict[str, Any]) -> tuple[jax.Array, tuple]:
        totals, logs, batch_stats = _losses(
            params, state, batch, pair=pair, objective=objective, jitter=jitter
        )
        return totals["cnn"] + totals["vit"], (logs, batch_stats)

    params = {name: getattr(state, name).params for name in learning}
    grads, (logs, batch_stats) = jax.grad(loss, has_aux=True)(params)
    for name in learning:
        logs[f"{name}/grad_norm"] = optax.global_norm(grads[name])
    watched = [logs[f"{name}/total"] for name in STUDENTS]
    watched += [logs[f"{name}/grad_norm"] for name in learning]
    finite = jnp.isfinite(jnp.stack(watched)).all()
    parts = {}
    for name in learning:
        part = getattr(state, name)
        updates, opt_state = optimizers[name].update(grads[name], part.opt_state, part.params)
        updated = part.replace(
            params=optax.apply_updates(part.params, updates),
            batch_stats=batch_stats.get(name, part.batch_stats),
            opt_state=opt_state,
        )
        parts[name] = jax.tree.map(functools.partial(jnp.where, finite), updated, part)
    logs["skipped"] = state.skipped + ~finite
    logs["skipped_in_a_row"] = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    counts = {key: logs[key] for key in ("skipped", "skipped_in_a_row")}
    return dataclasses.replace(state, step=state.step + 1, **counts, **parts), logs


def _losses(
    params: Mapping[str, Any],
    state: CollabState,
    batch: Mapping[str, jax.Array],
    *,
    pair: Pair,
    objective: Objective,
    jitter: Mapping[str, float],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, Any]]:
    """Totals, logs and new batch_stats of the step that comes after `state`.

    Args:
      params: {part: what takes the place of its parameters}; the others are the state's.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    keys = dict(zip(("augment", "forward", "select"), jax.random.split(rng, 3), strict=True))
    images = color_jitter(batch["image"], keys["augment"], **jitter)
    images = normalize(images)
    labels = jnp.where(batch["valid"][:, None, None], batch["label"], IGNORE)
    variables = {name: getattr(state, name).variables for name in PARTS}
    for name in params:
        variables[name]["params"] = params[name]
    output, batch_stats = forward(pair, variables, images, rng=keys["forward"])
    totals, logs = evaluate_objective(
        objective, output, labels, step=state.step, rng=keys["select"]
    )
    return totals, logs, batch_stats


def gradient_norms(
    state: CollabState,
    batch: Mapping[str, jax.Array],
    *,
    pair: Pair,
    objective: Objective,
    jitter: Mapping[str, float],
) -> dict[str, jax.Array]:
    """How strongly each loss pulls at each student in the step that comes after `state`.

    It draws what `train_step` draws, and takes one backward pass for each term.

    Args:
      state: see `train_step`, as all others.
      batch: see there.
      pair: see there.
      objective: see there.
      jitter: see there.

    Returns:
      {"<student>/<term>_grad_norm": norm of the gradient of the unweighted term, of both students
      together, with respect to this student's parameters}, of students that learn. As the teacher's
      side is stopped, only what the student itself learns reaches them (with `borrowed_grad`, what
      its second stage learns for the peer too).
    """
    supervised = "ce" if objective.class_weights is None else "ce_weighted"
    names = (supervised, *objective.weights)
    learned = {s: getattr(state, s).params for s in STUDENTS if s not in pair.frozen}

    def terms(params: dict[str, Any]) -> jax.Array:
        _, logs, _ = _losses(params, state, batch, pair=pair, objective=objective, jitter=jitter)
        return jnp.stack([sum(logs.get(f"{s}/{name}", 0.0) for s in STUDENTS) for name in names])

    _, pull_back = jax.vjp(terms, learned)

    def norms(chosen: jax.Array) -> dict[str, jax.Array]:
        [grads] = pull_back(chosen)
        return {student: optax.global_norm(grads[student]) for student in grads}

    # One after the other: memory for one gradient.
    rows = jax.lax.map(norms, jnp.eye(len(names)))
    return {f"{s}/{name}_grad_norm": rows[s][i] for s in rows for i, name in enumerate(names)}


def eval_step(
    variables: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    *,
    pair: Pair,
    num_classes: int,
    how: Inference = Inference(),
) -> dict[str, jax.Array]:
    """Confusion matrices {"cnn", "vit", "ensemble"}, [K, K] int32, of one global batch.

    Args:
      variables: {student: {params, batch_stats}}.
      batch: of `data.eval_batches`, without its index.
      pair: the students.
      num_classes: K.
      how: windows, scales and mirroring.
    """
    labels = jnp.where(batch["valid"][:, None, None], batch["label"], IGNORE)
    logits = apply_students(variables, batch["image"], pair=pair, students=STUDENTS, how=how)
    maps = label_maps(
        logits, (labels.shape[1], labels.shape[2]), outputs=OUTPUTS, sizes=batch.get("sizes")
    )
    return {
        name: confusion_matrix(predicted, labels, num_classes=num_classes)
        for name, predicted in maps.items()
    }
