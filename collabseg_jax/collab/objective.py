"""Which terms, with whose weights and ramps: arrays in, one scalar per student and logs out."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collabseg_jax import losses, ops
from collabseg_jax.collab import diagnostics
from collabseg_jax.collab.pair import STUDENTS, PairOutput, peer_of
from collabseg_jax.collab.terms import NAMES, Term, find_term
from collabseg_jax.collab.view import Peer, View, make_views
from collabseg_jax.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Objective:
    """The terms with a weight, their options, and the ramp.

    Attributes:
      ce_weights: {student: weight of the supervised loss}.
      weights: {term: {student that learns: weight}}; no term whose weights are all 0.
      terms: {term: Term}, of the same names.
      options: {term: keyword arguments of its loss}.
      ramp_steps: the distillation weights rise linearly from 0 over this many steps.
      class_weights: of the supervised loss, one >= 0 per class; None for none. Nothing else is
        weighted: who teaches whom is decided by the plain cross-entropy.
      strip_rows: what depends on single pixels is computed on strips of so many rows; 0 for all at
        once. It saves memory and changes nothing but roundings, and what `select=random` draws.
    """

    ce_weights: dict[str, float]
    weights: dict[str, dict[str, float]]
    terms: dict[str, Term]
    options: dict[str, dict]
    ramp_steps: int = 0
    class_weights: tuple[float, ...] | None = None
    strip_rows: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of cross features that the terms need."""
        return tuple(sorted({kind for term in self.terms.values() for kind in term.needs}))

    def learners(self, term: str) -> list[str]:
        """The students that learn from a term."""
        return [name for name in STUDENTS if self.weights[term][name] != 0]

    def given(self, term: str, view: View, key: jax.Array) -> dict[str, Any]:
        """The keyword arguments of a term's function for what a learner sees."""
        values = {
            "teacher_correct": view.peer.correct,
            "rng": key,
            "num_classes": view.logits.shape[-1],
        }
        return self.options[term] | {name: values[name] for name in self.terms[term].takes}


def build_objective(
    table: Mapping[str, Mapping[str, Any]],
    *,
    ramp_steps: int = 0,
    strip_rows: int = 0,
    frozen: tuple[str, ...] = (),
) -> Objective:
    """An objective from {term: {"weight": w, "cnn": 1.0, "vit": 1.0, **options}} with "ce".

    The weight of what the CNN learns is `weight * cnn`, likewise for the ViT. A weight of 0
    removes a direction, and two a term: no cost, no log key.

    Args:
      table: the rows, as `config.losses` has them.
      ramp_steps: see `Objective`.
      strip_rows: see `Objective`.
      frozen: students that learn nothing; theirs are 0.

    Raises:
      InputError: an unknown term, divergence, selector or other choice, or a number out of range.

    Example:
      >>> objective = build_objective({"ce": {"weight": 1.0}, "dml": {"weight": 0.5, "vit": 0.0}})
      >>> objective.weights
      {'dml': {'cnn': 0.5, 'vit': 0.0}}
    """
    weights: dict[str, dict[str, float]] = {}
    terms: dict[str, Term] = {}
    options: dict[str, dict[str, Any]] = {}
    for name, given in table.items():
        if name not in ("ce", *NAMES):
            raise unknown("loss", name, ("ce", *NAMES))
        row = dict(given)
        weights[name] = _weights(name, row, frozen)
        if name == "ce":
            continue
        if not any(weights[name].values()):
            del weights[name]
            continue
        terms[name], options[name] = find_term(name, row)
        _check(name, options[name])
    return Objective(
        ce_weights=weights.pop("ce"),
        weights=weights,
        terms=terms,
        options=options,
        ramp_steps=ramp_steps,
        strip_rows=strip_rows,
    )


def _weights(name: str, row: dict[str, Any], frozen: tuple[str, ...]) -> dict[str, float]:
    """Take the weights out of a row: {student: weight}."""
    given = {"weight": row.pop("weight"), **{s: row.pop(s, 1.0) for s in STUDENTS}}
    for key, value in given.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"losses.{name}.{key} is {value}, expected a finite number >= 0")
    return {s: 0.0 if s in frozen else float(given["weight"] * given[s]) for s in STUDENTS}


def _check(name: str, options: Mapping[str, Any]) -> None:
    """InputError for an option that its loss would refuse in the middle of a step."""
    if "divergence" in options:
        losses.get_divergence(options["divergence"])
    for key, valid in (("select", losses.SELECTORS), ("ensemble", losses.ENSEMBLES)):
        if options.get(key, valid[0]) not in valid:
            raise unknown(key, options[key], valid)
    if not 0 < options.get("temperature", 1.0) < float("inf"):
        raise InputError(
            f"losses.{name}.temperature is {options['temperature']}, expected a finite number > 0"
        )
    for key in ("inter", "intra", "pixel", "region"):
        if not 0 <= options.get(key, 0.0) < float("inf"):
            raise InputError(
                f"losses.{name}.{key} is {options[key]}, expected a finite number >= 0"
            )
    if options.get("grid", 1) < 1:
        raise InputError(f"losses.{name}.grid is {options['grid']}, expected at least 1")


def _pixels(
    objective: Objective,
    rng: jax.Array,
    logits: Mapping[str, jax.Array],
    labels: jax.Array,
    strip: jax.Array,
) -> dict[str, Any]:
    """All that depends on single pixels, of any rows of them.

    Args:
      objective: the terms.
      rng: key, for random selection.
      logits: {student: [B, r, W, K]}, enlarged.
      labels: [B, r, W].
      strip: which rows these are, for what is drawn at random.

    Returns:
      {"ce": {student: [B, r, W]}, "correct": {student: [B, r, W] bool}, "terms": {term: {student
      that learns: values and where they count, [B, r, W] each}}}.
    """
    ce, correct = {}, {}
    for name, z in logits.items():
        ce[name], valid = losses.cross_entropy(z, labels)
        correct[name] = jnp.argmax(z, -1) == labels
    terms: dict[str, dict[str, tuple]] = {}
    for name, term in objective.terms.items():
        if term.unreduced is None:
            continue
        terms[name] = {}
        for student in objective.learners(name):
            peer = peer_of(student)
            view = View(
                logits=logits[student],
                ce=ce[student],
                correct=correct[student],
                labels=labels,
                valid=valid,
                peer=jax.lax.stop_gradient(Peer(logits[peer], ce[peer], correct[peer])),
            )
            key = jax.random.fold_in(key_of(rng, name, student), strip)
            options = objective.given(name, view, key)
            terms[name][student] = term.unreduced(*term.arrays(view), **options)
    return {"ce": ce, "correct": correct, "terms": terms}


def key_of(rng: jax.Array, term: str, student: str) -> jax.Array:
    """The key of one term and direction: it depends on their names alone, not on the table."""
    return jax.random.fold_in(rng, np.uint32(zlib.crc32(f"{term}/{student}".encode())))


def evaluate_objective(
    objective: Objective, output: PairOutput, labels: jax.Array, *, step: jax.Array, rng: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The loss of each student.

    Args:
      objective: of `build_objective`.
      output: of `pair.forward`.
      labels: [B, H, W] integer, 255 = ignore.
      step: scalar int, for the ramp.
      rng: key, for random selection.

    Returns:
      totals {"cnn": scalar, "vit": scalar}, and logs {"cnn/ce": ..., "cnn/hfd": ..., ...}: the
      terms without their weights ("ce" is plain; "ce_weighted", where there are class weights, has
      them), and what `diagnostics` observes: where the peer teaches and who is right there,
      and the spread of the common features.
    """
    ramp: Any = 1.0
    if objective.ramp_steps > 0:
        ramp = jnp.minimum(1.0, step / objective.ramp_steps)
    totals, logs = {}, {}
    pixels = ops.over_rows(
        functools.partial(_pixels, objective, rng),
        {name: (out.logits, out.align_corners) for name, out in output.students.items()},
        labels,
        size=(labels.shape[1], labels.shape[2]),
        rows=objective.strip_rows,
    )
    for name, view in make_views(output, pixels, labels).items():
        logs[f"{name}/ce"] = losses.masked_mean(view.ce, view.valid)
        supervised = logs[f"{name}/ce"]
        if objective.class_weights is not None:
            # An ignored label takes the last class's weight, and is masked.
            weights = jnp.array(objective.class_weights, jnp.float32).at[labels].get(mode="clip")
            supervised = losses.weighted_mean(view.ce, weights, view.valid)
            logs[f"{name}/ce_weighted"] = supervised
        totals[name] = objective.ce_weights[name] * supervised
        for term in objective.terms:
            if name in objective.learners(term):
                value = _value(objective, term, name, view, pixels["terms"], rng)
                logs[f"{name}/{term}"] = value
                totals[name] += objective.weights[term][name] * ramp * value
        observed = diagnostics.teaching(
            view.ce,
            view.peer.ce,
            view.correct,
            view.peer.correct,
            view.valid,
            grid=output.students["cnn"].stages[3].shape[1:3],
        )
        if "common" in view.crossed:
            spread = diagnostics.spread(view.crossed["common"])
            observed |= {f"common_{key}": value for key, value in spread.items()}
        logs |= {f"{name}/{key}": value for key, value in observed.items()}
        logs[f"{name}/total"] = totals[name]
    return totals, logs


def _value(
    objective: Objective,
    name: str,
    student: str,
    view: View,
    pixels: Mapping[str, Mapping[str, tuple]],
    rng: jax.Array,
) -> jax.Array:
    """A term of one learner, without its weight."""
    term = objective.terms[name]
    if name in pixels:
        return losses.masked_mean(*pixels[name][student])
    options = objective.given(name, view, key_of(rng, name, student))
    assert term.loss is not None  # a term has it, or is among the pixels
    return term.loss(*term.arrays(view), **options)
