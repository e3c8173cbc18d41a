"""Pure steps: both students, the objective, one gradient, all states. Jitted here only."""

import functools

import jax
import jax.numpy as jnp
import optax

from collabseg_jax import losses, metrics
from collabseg_jax.collab import augment, inference
from collabseg_jax.collab import objective as objectives
from collabseg_jax.collab import pair as pairs
from collabseg_jax.collab import sharding as shardings
from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.collab.pair import PARTS, STUDENTS


def train_step(state, batch, *, pair, objective, optimizers, jitter):
    """One step of both students and the bridges; a frozen student stays as it is.

    Where a loss or a gradient is not finite, all parts stay as they are and the step is counted as
    skipped: what one student cannot learn from would spoil the other through the next step.

    Args:
      state: CollabState.
      batch: image uint8 [B, H, W, 3], label uint8 [B, H, W] with 255 = ignore, valid bool [B].
      pair, objective, optimizers: what `state` belongs to; optimizers by part.
      jitter: keyword arguments of `augment.color_jitter`.
    Returns:
      the next state; logs {name: float32 scalar}.
    """
    learning = [name for name in PARTS if name not in pair.frozen]

    def loss(params):
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
    return state.replace(step=state.step + 1, **counts, **parts), logs


def _losses(params, state, batch, *, pair, objective, jitter) -> tuple[dict, dict, dict]:
    """Totals, logs and new batch_stats of the step that comes after `state`.

    Args:
      params: {part: what takes the place of its parameters}; the others are the state's.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    keys = dict(zip(("augment", "forward", "select"), jax.random.split(rng, 3), strict=True))
    images = augment.color_jitter(batch["image"], keys["augment"], **jitter)
    images = augment.normalize(images)
    labels = jnp.where(batch["valid"][:, None, None], batch["label"], 255)
    variables = {name: getattr(state, name).variables for name in PARTS}
    for name in params:
        variables[name]["params"] = params[name]
    output, batch_stats = pairs.forward(pair, variables, images, rng=keys["forward"])
    totals, logs = objectives.evaluate(
        objective, output, labels, step=state.step, rng=keys["select"]
    )
    return totals, logs, batch_stats


def gradient_norms(state, batch, *, pair, objective, jitter) -> dict:
    """How strongly each loss pulls at each student in the step that comes after `state`.

    Args:
      as of `train_step`, which draws the same; one backward pass for each term.
    Returns:
      {"<student>/<term>_grad_norm": norm of the gradient of the unweighted term, of both students
      together, with respect to this student's parameters}, of students that learn. As the teacher's
      side is stopped, only what the student itself learns reaches them (with `borrowed_grad`, what
      its second stage learns for the peer too).
    """
    supervised = "ce" if objective.class_weights is None else "ce_weighted"
    names = (supervised, *objective.weights)
    learned = {s: getattr(state, s).params for s in STUDENTS if s not in pair.frozen}

    def terms(params):
        _, logs, _ = _losses(params, state, batch, pair=pair, objective=objective, jitter=jitter)
        return jnp.stack([sum(logs.get(f"{s}/{name}", 0.0) for s in STUDENTS) for name in names])

    _, pull_back = jax.vjp(terms, learned)

    def norms(chosen):
        [grads] = pull_back(chosen)
        return {student: optax.global_norm(grads[student]) for student in grads}

    found = jax.lax.map(norms, jnp.eye(len(names)))  # one after the other: memory for one gradient
    return {f"{s}/{name}_grad_norm": found[s][i] for s in found for i, name in enumerate(names)}


def eval_step(variables, batch, *, pair, num_classes, how=inference.Inference()):
    """Confusion matrices {"cnn", "vit", "ensemble"}, [K, K] int32, of one global batch.

    Args:
      variables: {student: {params, batch_stats}}.
      batch: of `data.eval_batches`, without its index.
      pair: the students; num_classes: K.
      how: an `Inference`.
    """
    labels = jnp.where(batch["valid"][:, None, None], batch["label"], 255)
    made = inference.views(variables, batch["image"], pair=pair, students=STUDENTS, how=how)
    maps = inference.label_maps(made, labels.shape[1:], outputs=OUTPUTS, sizes=batch.get("sizes"))
    return {
        name: metrics.confusion_matrix(predicted, labels, num_classes=num_classes)
        for name, predicted in maps.items()
    }


def jit_train_step(layout, *, pair, objective, optimizers, jitter):
    """`train_step` compiled for batches of a `sharding.Layout`; the state is donated."""
    step = functools.partial(
        train_step, pair=pair, objective=objective, optimizers=optimizers, jitter=jitter
    )
    everywhere = shardings.replicated(layout.mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(everywhere, layout.shardings),
        out_shardings=everywhere,
    )


def jit_gradient_norms(layout, *, pair, objective, jitter):
    """`gradient_norms` compiled for batches of a `sharding.Layout`; the state is not donated."""
    everywhere = shardings.replicated(layout.mesh)
    return jax.jit(
        functools.partial(gradient_norms, pair=pair, objective=objective, jitter=jitter),
        in_shardings=(everywhere, layout.shardings),
        out_shardings=everywhere,
    )


def jit_eval_step(layout, *, pair, num_classes, how=inference.Inference()):
    """`eval_step` compiled for batches of a `sharding.Layout`."""
    everywhere = shardings.replicated(layout.mesh)
    return jax.jit(
        functools.partial(eval_step, pair=pair, num_classes=num_classes, how=how),
        in_shardings=(everywhere, layout.shardings["valid"]),  # whole images, whatever the key
        out_shardings=everywhere,
    )


def jit_views(*, pair, students, how):
    """`inference.views` compiled on the default device."""
    return jax.jit(functools.partial(inference.views, pair=pair, students=students, how=how))


def jit_label_maps(*, outputs):
    """`inference.label_maps` compiled on the default device: (views, shape, sizes) -> maps."""
    maps = functools.partial(inference.label_maps, outputs=outputs)
    return jax.jit(lambda made, shape, sizes: maps(made, shape, sizes=sizes), static_argnums=1)


def jit_inspect(*, pair):
    """For pictures: label maps and the cross-entropy of each student, compiled.

    (variables, images uint8 [B, H, W, 3], labels [B, H, W]) ->
    ({student: uint8 [B, H, W]}, {student: float32 [B, H, W], nats}).
    """

    def inspect(variables, images, labels):
        maps, error = {}, {}
        for name in STUDENTS:
            output = getattr(pair, name).apply(
                variables[name], augment.normalize(images), train=False
            )
            logits = output.logits_at(labels.shape[1:])
            maps[name] = jnp.argmax(logits, -1).astype(jnp.uint8)
            error[name], _ = losses.cross_entropy(logits, labels)
        return maps, error

    return jax.jit(inspect)
