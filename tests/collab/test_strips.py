"""Losses on strips of rows: the same losses and gradients, without whole enlarged logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.collab import objective, pair, terms
from collabseg_jax.models.outputs import SegOutput
from tests import tiny

ROWS = 24  # of 64: two strips and a shorter one
ON_PIXELS = ("bsd_pixel", "dml", "kdcl")


def outputs(classes, *, seed=0, batch=2, size=64):
    """Outputs of two students that are nothing but logits."""
    shape = (batch, size // 4, size // 4, classes)
    keys = jax.random.split(jax.random.key(seed))
    stages = (jnp.zeros((batch, size // 16, size // 16, 1)),) * 4
    logits = dict(zip(pair.STUDENTS, (3 * jax.random.normal(k, shape) for k in keys), strict=True))
    return {name: SegOutput(stages, stages[0], z) for name, z in logits.items()}


def losses_of(goal, labels):
    """logits -> ({student: total}, logs), and the gradient of their sum."""

    def total(logits):
        students = {
            name: output.replace(logits=logits[name])
            for name, output in outputs(logits["cnn"].shape[-1]).items()
        }
        made = pair.PairOutput(students, {})
        totals, logs = objective.evaluate_objective(
            goal, made, labels, step=5, rng=jax.random.key(1)
        )
        return sum(totals.values()), (totals, logs)

    return jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("ensemble", ["naive", "mean", "min_logit"])
@pytest.mark.parametrize("select", ["lower_ce", "lower_ce_correct", "all", "higher_ce"])
def test_strips_change_nothing(select, ensemble):
    rows = {"bsd_pixel": {"select": select, "vit": 0.0}, "kdcl": {"ensemble": ensemble}, "dml": {}}
    table = {"ce": {"weight": 1.0}} | {k: {"weight": 0.7, **row} for k, row in rows.items()}
    whole = objective.build_objective(table, ramp_steps=10)
    whole = dataclasses.replace(whole, class_weights=(0.5, 2.0, 1.0))
    labels = jnp.asarray(tiny.make_batch(2)["label"])
    assert (labels == 255).any()
    logits = {name: output.logits for name, output in outputs(tiny.CLASSES).items()}
    actual = [
        jax.device_get(losses_of(dataclasses.replace(whole, strip_rows=n), labels)(logits))
        for n in (0, ROWS)
    ]
    assert set(actual[0][0][1][1]) == set(actual[1][0][1][1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-9), *actual)


def test_no_enlarged_logits_are_ever_whole():
    """In the compiled program there is no array of a student's enlarged logits."""
    classes, size = 19, 64
    table = {name: {"weight": 1.0} for name in ("ce", *ON_PIXELS)}
    labels = jax.random.randint(jax.random.key(2), (2, size, size), 0, classes)
    logits = {name: output.logits for name, output in outputs(classes).items()}
    memory, whole = {}, f"[2,{size},{size},{classes}]"
    for rows in (0, 8):
        goal = objective.build_objective(table, strip_rows=rows)
        compiled = losses_of(goal, labels).lower(logits).compile()
        assert (whole in compiled.as_text()) == (rows == 0)
        memory[rows] = compiled.memory_analysis().temp_size_in_bytes
    assert memory[8] < memory[0] / 2


def test_these_terms_hang_on_single_pixels():
    """The others of the table would silently hold whole logits if they could do without."""
    rows = terms.TERMS.items()
    actual = {name for name, row in rows if getattr(row, "unreduced", None)}
    assert actual == set(ON_PIXELS)
