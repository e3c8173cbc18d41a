"""Which terms, with whose weights and ramps: arrays in, one scalar per student and logs out."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from collabseg_jax import losses
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.pair import STUDENTS, PairOutput, peer_of


class View(NamedTuple):
    """What one student (the learner) sees of itself and of its peer (the teacher).

    Logits and cross-entropies are at label resolution; features are None unless some term of the
    objective needs them.
    """

    logits: jax.Array
    peer_logits: jax.Array
    ce: jax.Array
    peer_ce: jax.Array
    valid: jax.Array
    peer_correct: jax.Array
    borrowed: jax.Array | None
    peer_f2: jax.Array
    common: jax.Array | None
    peer_common: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Term:
    """One row of the table: a pure loss, the arrays it takes, the cross features it needs."""

    fn: Callable
    arrays: Callable[[View], tuple]
    needs: tuple[str, ...] = ()
    selects: bool = False  # takes `teacher_correct` and `rng` for its selector


TERMS = {
    "hfd": Term(losses.hfd, lambda v: (v.borrowed, v.peer_f2), ("hfd",)),
    "bsd_region": Term(
        losses.bsd_region,
        lambda v: (v.common, v.peer_common, v.ce, v.peer_ce, v.valid),
        ("common",),
        selects=True,
    ),
    "bsd_pixel": Term(
        losses.bsd_pixel,
        lambda v: (v.logits, v.peer_logits, v.ce, v.peer_ce, v.valid),
        selects=True,
    ),
    "dml": Term(losses.dml, lambda v: (v.logits, v.peer_logits, v.valid)),
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """The terms with a weight, their options, and the ramp.

    Attributes:
      ce_weight: of the supervised loss.
      weights: {term: weight}, none of them 0.
      options: {term: keyword arguments of its loss}.
      ramp_steps: the distillation weights rise linearly from 0 over this many steps.
      class_weights: of the supervised loss, one >= 0 per class; None for none. Nothing else is
        weighted: who teaches whom is decided by the plain cross-entropy.
    """

    ce_weight: float
    weights: dict[str, float]
    options: dict[str, dict]
    ramp_steps: int = 0
    class_weights: tuple[float, ...] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of cross features that the terms need."""
        return tuple(sorted({kind for name in self.weights for kind in TERMS[name].needs}))


def build(table: dict[str, dict], *, ramp_steps: int = 0) -> Objective:
    """An objective from {term: {"weight": w, **options}} with "ce" among the terms.

    A weight of 0 removes the term: no cost, no log key.

    Raises:
      ValueError: an unknown term, divergence or selector, or a weight that cannot be.
    """
    weights, options = {}, {}
    for name, row in table.items():
        if name != "ce" and name not in TERMS:
            raise unknown("loss", name, [*TERMS, "ce"])
        weight = row["weight"]
        if not 0 <= weight < float("inf"):
            raise InputError(f"losses.{name}.weight is {weight}, expected a finite number >= 0")
        if name == "ce" or weight == 0:
            continue
        weights[name] = float(weight)
        options[name] = {key: value for key, value in row.items() if key != "weight"}
        if "divergence" in options[name]:
            losses.get_divergence(options[name]["divergence"])
        if options[name].get("select", "all") not in losses.SELECTORS:
            raise unknown("select", options[name]["select"], losses.SELECTORS)
        if options[name].get("temperature", 1.0) <= 0:
            raise InputError(
                f"losses.{name}.temperature is {options[name]['temperature']}, expected > 0"
            )
    return Objective(float(table["ce"]["weight"]), weights, options, ramp_steps)


def spread(features) -> dict:
    """How much a map still tells apart: a collapse of the projections shows here first.

    Args:
      features: [B, h, w, C].
    Returns:
      "std": mean over channels of the standard deviation over positions; "rank": the effective
      rank tr(S)^2 / tr(S^2) of the channel covariance S, in [1, C].
    """
    flat = jax.lax.stop_gradient(features).reshape(-1, features.shape[-1]).astype(jnp.float32)
    centred = flat - flat.mean(0)
    covariance = centred.T @ centred / flat.shape[0]
    trace = jnp.trace(covariance)
    rank = trace**2 / jnp.maximum(jnp.sum(covariance**2), 1e-20)
    return {"std": jnp.sqrt(jnp.diag(covariance)).mean(), "rank": rank}


def _views(output: PairOutput, labels) -> dict[str, View]:
    logits, ce, correct = {}, {}, {}
    for name in STUDENTS:
        z = output.students[name].logits_at(labels.shape[1:3])
        logits[name] = z
        ce[name], valid = losses.cross_entropy(z, labels)
        correct[name] = jnp.argmax(z, -1) == labels
    return {
        name: View(
            logits=logits[name],
            peer_logits=logits[peer],
            ce=ce[name],
            peer_ce=ce[peer],
            valid=valid,
            peer_correct=correct[peer],
            borrowed=output.borrowed.get(name),
            peer_f2=output.students[peer].stages[1],
            common=output.common.get(name),
            peer_common=output.common.get(peer),
        )
        for name, peer in ((name, peer_of(name)) for name in STUDENTS)
    }


def evaluate(objective: Objective, output: PairOutput, labels, *, step, rng) -> tuple[dict, dict]:
    """The loss of each student.

    Args:
      labels: [B, H, W] integer, 255 = ignore.
      step: scalar int, for the ramp.
      rng: key, for random selection.
    Returns:
      totals {"cnn": scalar, "vit": scalar}, and logs {"cnn/ce": ..., "cnn/hfd": ..., ...}: the
      terms without their weights ("ce" is plain; "ce_weighted", where there are class weights, has
      them), "taught" (share of valid pixels where the peer has the lower cross-entropy),
      "teacher_correct" (how often it is right there), and the spread of the common features.
    """
    ramp = 1.0
    if objective.ramp_steps > 0:
        ramp = jnp.minimum(1.0, step / objective.ramp_steps)
    totals, logs = {}, {}
    for i, (name, view) in enumerate(_views(output, labels).items()):
        logs[f"{name}/ce"] = losses.masked_mean(view.ce, view.valid)
        supervised = logs[f"{name}/ce"]
        if objective.class_weights is not None:
            # An ignored label takes the last class's weight, and is masked.
            weights = jnp.array(objective.class_weights, jnp.float32).at[labels].get(mode="clip")
            supervised = losses.weighted_mean(view.ce, weights, view.valid)
            logs[f"{name}/ce_weighted"] = supervised
        totals[name] = objective.ce_weight * supervised
        for term_name, weight in objective.weights.items():
            term, options = TERMS[term_name], dict(objective.options[term_name])
            if term.selects:
                key = jax.random.fold_in(rng, 2 * sorted(TERMS).index(term_name) + i)
                options |= {"teacher_correct": view.peer_correct, "rng": key}
            value = term.fn(*term.arrays(view), **options)
            logs[f"{name}/{term_name}"] = value
            totals[name] += weight * ramp * value
        taught = losses.select_where("lower_ce", view.ce, view.peer_ce, view.valid)
        logs[f"{name}/taught"] = losses.masked_mean(taught, view.valid)
        logs[f"{name}/teacher_correct"] = losses.masked_mean(view.peer_correct, taught)
        if view.common is not None:
            for key, value in spread(view.common).items():
                logs[f"{name}/common_{key}"] = value
        logs[f"{name}/total"] = totals[name]
    return totals, logs
