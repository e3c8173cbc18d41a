"""The class-weighted supervised loss against its formula; PyTorch's own is in oracles/."""

import dataclasses

import jax
import numpy as np
import pytest

from collabseg_jax.collab import objective, pair
from collabseg_jax.models.outputs import SegOutput
from tests import tiny
from tests.losses import reference

WEIGHTS = (0.25, 2.0, 1.5)


def output(logits):
    """What a pair gives whose heads have the resolution of the labels."""
    stages = (np.zeros((2, 1, 1, 1), np.float32),) * 4
    students = {name: SegOutput(stages, stages[0], z) for name, z in logits.items()}
    return pair.PairOutput(students, {})


def draw():
    """Logits of both students, and labels of which some are ignored."""
    rng = np.random.default_rng(0)
    logits = {s: rng.normal(0, 2, (2, 5, 7, 3)).astype(np.float32) for s in pair.STUDENTS}
    labels = rng.integers(0, 3, (2, 5, 7)).astype(np.uint8)
    labels[0, :2], labels[1, :, 3] = 255, 255
    return logits, labels


@pytest.fixture(scope="module")
def drawn():
    return draw()


def evaluate(logits, labels, table, weights=WEIGHTS):
    goal = dataclasses.replace(objective.build_objective(table), class_weights=weights)
    return objective.evaluate_objective(goal, output(logits), labels, step=0, rng=jax.random.key(0))


ONLY_CE = {"ce": {"weight": 0.5, "class_weights": "0.25,2,1.5"}}


def test_value_and_gradient(drawn):
    logits, labels = drawn

    def total(logits):
        totals, logs = evaluate(logits, labels, ONLY_CE)
        return totals["cnn"] + totals["vit"], (totals, logs)

    grads, (totals, logs) = jax.grad(total, has_aux=True)(logits)
    valid = labels != 255
    weights = np.where(valid, np.array(WEIGHTS)[np.where(valid, labels, 0)], 0)
    one_hot = np.eye(3)[np.where(valid, labels, 0)]
    for name in pair.STUDENTS:
        ce, _ = reference.cross_entropy(logits[name], labels)
        weighted = (weights * ce).sum() / weights.sum()
        np.testing.assert_allclose(logs[f"{name}/ce_weighted"], weighted, rtol=1e-5)
        np.testing.assert_allclose(logs[f"{name}/ce"], ce.sum() / valid.sum(), rtol=1e-5)
        np.testing.assert_allclose(totals[name], 0.5 * weighted, rtol=1e-5)
        p = np.exp(logits[name].astype(np.float64))
        p /= p.sum(-1, keepdims=True)
        expected = 0.5 * weights[..., None] * (p - one_hot) / weights.sum()
        np.testing.assert_allclose(grads[name], expected, rtol=1e-4, atol=1e-7)
        assert not np.asarray(grads[name])[~valid].any()


def test_only_the_supervised_term_is_weighted(drawn):
    logits, labels = drawn
    table = {name: tiny.FULL[name] for name in ("ce", "bsd_pixel")}
    _, weighted = evaluate(logits, labels, table)
    _, plain = evaluate(logits, labels, table, None)
    assert {*weighted} - {*plain} == {"cnn/ce_weighted", "vit/ce_weighted"}
    for key in plain:
        if not key.endswith("/total"):
            assert plain[key] == weighted[key]
    assert plain["cnn/total"] != weighted["cnn/total"]


def test_equal_weights_change_nothing_and_weightless_pixels_teach_nothing(drawn):
    logits, labels = drawn
    _, logs = evaluate(logits, labels, ONLY_CE, (0.3, 0.3, 0.3))
    np.testing.assert_allclose(logs["cnn/ce_weighted"], logs["cnn/ce"], rtol=1e-6)
    _, logs = evaluate(logits, np.where(labels == 255, labels, 1), ONLY_CE, (1.0, 0.0, 1.0))
    assert logs["cnn/ce_weighted"] == 0 and logs["cnn/total"] == 0
