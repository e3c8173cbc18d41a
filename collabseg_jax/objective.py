"""Which terms, with whose weights and ramps: arrays in, one scalar per student and logs out."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from collabseg_jax import diagnostics, losses, terms
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.pair import STUDENTS, PairOutput, peer_of
from collabseg_jax.terms import Term, View


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
    """

    ce_weights: dict[str, float]
    weights: dict[str, dict[str, float]]
    terms: dict[str, Term]
    options: dict[str, dict]
    pair_options: dict
    ramp_steps: int = 0
    class_weights: tuple[float, ...] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of cross features that the terms need."""
        return tuple(sorted({kind for term in self.terms.values() for kind in term.needs}))


def build(table: dict[str, dict], *, ramp_steps: int = 0, frozen=()) -> Objective:
    """An objective from {term: {"weight": w, "cnn": 1.0, "vit": 1.0, **options}} with "ce".

    The weight of what the CNN learns is `weight * cnn`, likewise for the ViT. A weight of 0
    removes a direction, and two a term: no cost, no log key.

    Args:
      frozen: students that learn nothing; theirs are 0.
    Raises:
      ValueError: an unknown term, divergence, selector or other choice, or a number that cannot be.
    """
    weights, found, options, pair_options = {}, {}, {}, {}
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
        pair_options |= {key: row.pop(key) for key in term.of_pair if key in row}
        found[name], options[name] = term, row
        _check(name, row)
    return Objective(weights.pop("ce"), weights, found, options, pair_options, ramp_steps)


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


def _views(output: PairOutput, labels) -> dict[str, View]:
    logits, ce, correct = {}, {}, {}
    for name in STUDENTS:
        z = output.students[name].logits_at(labels.shape[1:3])
        logits[name] = z
        ce[name], valid = losses.cross_entropy(z, labels)
        correct[name] = jnp.argmax(z, -1) == labels
    views = {}
    for name, peer in ((name, peer_of(name)) for name in STUDENTS):
        own, other = output.students[name], output.students[peer]
        views[name] = View(
            logits=logits[name],
            peer_logits=logits[peer],
            head_logits=own.logits,
            peer_head_logits=other.logits_at(own.logits.shape[1:3]),
            ce=ce[name],
            peer_ce=ce[peer],
            labels=labels,
            valid=valid,
            peer_correct=correct[peer],
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
    for name, view in _views(output, labels).items():
        logs[f"{name}/ce"] = losses.masked_mean(view.ce, view.valid)
        supervised = logs[f"{name}/ce"]
        if objective.class_weights is not None:
            # An ignored label takes the last class's weight, and is masked.
            weights = jnp.array(objective.class_weights, jnp.float32).at[labels].get(mode="clip")
            supervised = losses.weighted_mean(view.ce, weights, view.valid)
            logs[f"{name}/ce_weighted"] = supervised
        totals[name] = objective.ce_weights[name] * supervised
        for term_name, term in objective.terms.items():
            weight = objective.weights[term_name][name]
            if weight == 0:
                continue
            given = {
                "teacher_correct": view.peer_correct,
                "rng": key_of(rng, term_name, name),
                "num_classes": view.logits.shape[-1],
            }
            options = objective.options[term_name] | {key: given[key] for key in term.takes}
            value = term.fn(*term.arrays(view), **options)
            logs[f"{name}/{term_name}"] = value
            totals[name] += weight * ramp * value
        observed = diagnostics.teaching(
            view.ce,
            view.peer_ce,
            jnp.argmax(view.logits, -1) == labels,
            view.peer_correct,
            view.valid,
            grid=output.students["cnn"].stages[3].shape[1:3],
        )
        if view.common is not None:
            observed |= {f"common_{k}": v for k, v in diagnostics.spread(view.common).items()}
        logs |= {f"{name}/{key}": value for key, value in observed.items()}
        logs[f"{name}/total"] = totals[name]
    return totals, logs
