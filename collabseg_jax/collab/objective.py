"""Which terms, with whose weights and ramps: arrays in, one scalar per student and logs out."""

import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from collabseg_jax import losses, ops
from collabseg_jax.collab import diagnostics, terms
from collabseg_jax.collab.pair import STUDENTS, PairOutput, peer_of
from collabseg_jax.collab.terms import Pixels, Term, View
from collabseg_jax.errors import InputError, unknown


@dataclasses.dataclass(frozen=True)
class Objective:
    """The terms with a weight, their options, and the ramp.

    Attributes:
      ce_weights: {student: weight of the supervised loss}.
      weights: {term: {student that learns: weight}}; no term whose weights are all 0.
      terms: {term: Term}, of the same names.
      options: {term: keyword arguments of its loss}.
      pair_options: keyword arguments of `pair.build` that stand in rows of losses.
      ramp_steps: the distillation weights rise linearly from 0 over this many steps.
      class_weights: of the supervised loss, one >= 0 per class; None for none. Nothing else is
        weighted: who teaches whom is decided by the plain cross-entropy.
      strip_rows: what hangs on single pixels is worked out on strips of so many rows; 0 for all at
        once. It saves memory and changes nothing but roundings, and what `select=random` draws.
    """

    ce_weights: dict[str, float]
    weights: dict[str, dict[str, float]]
    terms: dict[str, Term]
    options: dict[str, dict]
    pair_options: dict
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

    def given(self, term: str, view, key) -> dict:
        """The keyword arguments of a term's loss for a View, or Pixels, of a learner."""
        values = {
            "teacher_correct": view.peer_correct,
            "rng": key,
            "num_classes": view.logits.shape[-1],
        }
        return self.options[term] | {name: values[name] for name in self.terms[term].takes}


def build(
    table: dict[str, dict], *, ramp_steps: int = 0, strip_rows: int = 0, frozen=()
) -> Objective:
    """An objective from {term: {"weight": w, "cnn": 1.0, "vit": 1.0, **options}} with "ce".

    The weight of what the CNN learns is `weight * cnn`, likewise for the ViT. A weight of 0
    removes a direction, and two a term: no cost, no log key.

    Args:
      frozen: students that learn nothing; theirs are 0.
    Raises:
      ValueError: an unknown term, divergence, selector or other choice, or a number that cannot be.
    """
    weights, found, options = {}, {}, {}
    for name, row in table.items():
        if name not in ("ce", *terms.NAMES):
            raise unknown("loss", name, ("ce", *terms.NAMES))
        row = dict(row)
        weights[name] = _weights(name, row, frozen)
        if name == "ce":
            continue
        if not any(weights[name].values()):
            del weights[name]
            continue
        term, row = terms.find(name, row)
        row = {key: value for key, value in row.items() if key not in term.of_pair}
        found[name], options[name] = term, row
        _check(name, row)
    needs = {kind for term in found.values() for kind in term.needs}
    pair_options = {
        key: table[name][key]
        for name, keys in terms.OF_PAIR.items()
        if name in table and needs.intersection(terms.TERMS[name].needs)  # a custom loss's, too
        for key in keys
        if key in table[name]
    }
    return Objective(
        ce_weights=weights.pop("ce"),
        weights=weights,
        terms=found,
        options=options,
        pair_options=pair_options,
        ramp_steps=ramp_steps,
        strip_rows=strip_rows,
    )


def _weights(name: str, row: dict, frozen) -> dict[str, float]:
    """Take the weights out of a row: {student: weight}."""
    given = {"weight": row.pop("weight"), **{s: row.pop(s, 1.0) for s in STUDENTS}}
    for key, value in given.items():
        if not 0 <= value < float("inf"):
            raise InputError(f"losses.{name}.{key} is {value}, expected a finite number >= 0")
    return {s: 0.0 if s in frozen else float(given["weight"] * given[s]) for s in STUDENTS}


def _check(name: str, options: dict) -> None:
    """InputError for an option that its loss would refuse in the middle of a step."""
    if "divergence" in options:
        losses.get_divergence(options["divergence"])
    for key, valid in (("select", losses.SELECTORS), ("ensemble", losses.ENSEMBLES)):
        if options.get(key, valid[0]) not in valid:
            raise unknown(key, options[key], valid)
    if not options.get("temperature", 1.0) > 0:
        raise InputError(f"losses.{name}.temperature is {options['temperature']}, expected > 0")
    for key in ("inter", "intra", "pixel", "region"):
        if not 0 <= options.get(key, 0.0) < float("inf"):
            raise InputError(
                f"losses.{name}.{key} is {options[key]}, expected a finite number >= 0"
            )
    if options.get("grid", 1) < 1:
        raise InputError(f"losses.{name}.grid is {options['grid']}, expected at least 1")


def _pixels(objective, rng, logits: dict, labels, strip) -> dict:
    """All that hangs on single pixels, of any rows of them.

    Args:
      logits: {student: [B, r, W, K]}, enlarged; labels: [B, r, W].
      strip: which rows these are, for what is drawn at random.
    Returns:
      {"ce": {student: [B, r, W]}, "correct": {student: [B, r, W] bool}, "terms": {term: {student
      that learns: values and where they count, [B, r, W] each}}}.
    """
    ce, correct = {}, {}
    for name, z in logits.items():
        ce[name], valid = losses.cross_entropy(z, labels)
        correct[name] = jnp.argmax(z, -1) == labels
    found = {}
    for name, term in objective.terms.items():
        if term.unreduced is None:
            continue
        found[name] = {}
        for student in objective.learners(name):
            peer = peer_of(student)
            view = Pixels(
                logits=logits[student],
                peer_logits=logits[peer],
                ce=ce[student],
                peer_ce=ce[peer],
                labels=labels,
                valid=valid,
                peer_correct=correct[peer],
            )
            key = jax.random.fold_in(key_of(rng, name, student), strip)
            options = objective.given(name, view, key)
            found[name][student] = term.unreduced(*term.arrays(view), **options)
    return {"ce": ce, "correct": correct, "terms": found}


def _views(output: PairOutput, pixels: dict, labels) -> dict[str, View]:
    size = labels.shape[1:3]
    # Whole only if some term takes them; else the compiler leaves them out.
    logits = {name: output.students[name].logits_at(size) for name in STUDENTS}
    views = {}
    for name, peer in ((name, peer_of(name)) for name in STUDENTS):
        own, other = output.students[name], output.students[peer]
        views[name] = View(
            logits=logits[name],
            peer_logits=logits[peer],
            head_logits=own.logits,
            peer_head_logits=other.logits_at(own.logits.shape[1:3]),
            ce=pixels["ce"][name],
            peer_ce=pixels["ce"][peer],
            labels=labels,
            valid=labels != 255,
            peer_correct=pixels["correct"][peer],
            f4=own.stages[3],
            peer_f4=other.stages[3],
            peer_f2=other.stages[1],
            borrowed=output.borrowed.get(name),
            common=output.common.get(name),
            peer_common=output.common.get(peer),
            to_peer=output.to_peer.get(name),
            generated=output.generated.get(name),
        )
    return views


def key_of(rng, term: str, student: str):
    """The key of one term and direction: it hangs on their names alone, not on the table."""
    return jax.random.fold_in(rng, np.uint32(zlib.crc32(f"{term}/{student}".encode())))


def evaluate(objective: Objective, output: PairOutput, labels, *, step, rng) -> tuple[dict, dict]:
    """The loss of each student.

    Args:
      labels: [B, H, W] integer, 255 = ignore.
      step: scalar int, for the ramp.
      rng: key, for random selection.
    Returns:
      totals {"cnn": scalar, "vit": scalar}, and logs {"cnn/ce": ..., "cnn/hfd": ..., ...}: the
      terms without their weights ("ce" is plain; "ce_weighted", where there are class weights, has
      them), and what `diagnostics` observes: where the peer teaches and who is right there,
      and the spread of the common features.
    """
    ramp = 1.0
    if objective.ramp_steps > 0:
        ramp = jnp.minimum(1.0, step / objective.ramp_steps)
    totals, logs = {}, {}
    pixels = ops.over_rows(
        functools.partial(_pixels, objective, rng),
        {name: (out.logits, out.align_corners) for name, out in output.students.items()},
        labels,
        size=labels.shape[1:3],
        rows=objective.strip_rows,
    )
    for name, view in _views(output, pixels, labels).items():
        logs[f"{name}/ce"] = losses.masked_mean(view.ce, view.valid)
        supervised = logs[f"{name}/ce"]
        if objective.class_weights is not None:
            # An ignored label takes the last class's weight, and is masked.
            weights = jnp.array(objective.class_weights, jnp.float32).at[labels].get(mode="clip")
            supervised = losses.weighted_mean(view.ce, weights, view.valid)
            logs[f"{name}/ce_weighted"] = supervised
        totals[name] = objective.ce_weights[name] * supervised
        for term_name, term in objective.terms.items():
            if name not in objective.learners(term_name):
                continue
            if term_name in pixels["terms"]:
                value = losses.masked_mean(*pixels["terms"][term_name][name])
            else:
                options = objective.given(term_name, view, key_of(rng, term_name, name))
                value = term.loss(*term.arrays(view), **options)
            logs[f"{name}/{term_name}"] = value
            totals[name] += objective.weights[term_name][name] * ramp * value
        observed = diagnostics.teaching(
            view.ce,
            view.peer_ce,
            pixels["correct"][name],
            view.peer_correct,
            view.valid,
            grid=output.students["cnn"].stages[3].shape[1:3],
        )
        if view.common is not None:
            observed |= {f"common_{k}": v for k, v in diagnostics.spread(view.common).items()}
        logs |= {f"{name}/{key}": value for key, value in observed.items()}
        logs[f"{name}/total"] = totals[name]
    return totals, logs
