"""What the log says about teaching, against values worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from collabseg_jax.collab import diagnostics, objective, step
from collabseg_jax.report import charts
from tests import tiny

# One image of 2x6 pixels in three regions (2x2): A, B, C. In C only two pixels are valid, and both
# tie there. R is right, w is wrong; a number is a cross-entropy.
CE = [[0.9, 0.9, 0.1, 0.5, 0.3, 0.3], [0.2, 0.9, 0.1, 0.1, 9.0, 9.0]]
PEER_CE = [[0.1, 0.5, 0.8, 0.4, 0.3, 0.3], [0.3, 0.8, 0.2, 0.3, 0.0, 0.0]]
CORRECT = ["wwRwRw", "RwRRww"]
PEER_CORRECT = ["RRwwRR", "wwRRRR"]
VALID = [[True] * 6, [True, True, True, True, False, False]]


def right(rows):
    return jnp.array([[letter == "R" for letter in row] for row in rows])[None]


def test_teaching_by_hand():
    actual = diagnostics.teaching(
        jnp.array(CE)[None],
        jnp.array(PEER_CE)[None],
        right(CORRECT),
        right(PEER_CORRECT),
        jnp.array(VALID)[None],
        grid=(1, 3),
    )
    # Of 10 valid pixels the peer is lower at (0,0), (0,1), (1,1), (0,3); it is right at the first
    # two of them, where the learner is wrong; at the other two both are wrong.
    assert actual == pytest.approx(
        {
            **{"taught": 0.4, "teacher_correct": 0.5, "taught_right_wrong": 0.5},
            **{"taught_right_right": 0.0, "taught_wrong_wrong": 0.5, "taught_wrong_right": 0.0},
            # Means: A 0.725 > 0.425, taught; B 0.2 < 0.425; C 0.3 = 0.3. One of three regions;
            # in A the teacher has 2 of 4 right, the learner 1 of 4.
            **{"regions_taught": 1 / 3, "regions_teacher_correct": 0.5},
            **{"regions_learner_correct": 0.25},
        }
    )


def test_the_four_shares_are_all_there_are():
    rng = np.random.default_rng(0)
    ce, peer_ce = rng.random((2, 2, 8, 8)).astype(np.float32)
    correct, peer_correct, valid = rng.random((3, 2, 8, 8)) < 0.6
    actual = diagnostics.teaching(ce, peer_ce, correct, peer_correct, jnp.array(valid), grid=(2, 2))
    where = (peer_ce < ce) & valid
    for teacher in (True, False):
        for learner in (True, False):
            names = {True: "right", False: "wrong"}
            key = f"taught_{names[teacher]}_{names[learner]}"
            both = (peer_correct == teacher) & (correct == learner)
            assert actual[key] == pytest.approx((both & where).sum() / where.sum())


def test_nothing_valid_is_no_nan():
    nothing = jnp.zeros((1, 2, 6), bool)
    ce = jnp.array(CE)[None]
    actual = diagnostics.teaching(ce, ce, nothing, nothing, nothing, grid=(1, 3))
    assert {float(value) for value in actual.values()} == {0.0}


def test_spread_by_hand():
    """Two channels, one constant: a single direction, so the rank is 1; then four alike: 4."""
    line = np.zeros((1, 1, 4, 2), np.float32)
    line[..., 0] = [1, 3, 1, 3]  # deviation 1
    actual = diagnostics.spread(line)
    assert actual["std"] == pytest.approx(0.5)
    assert actual["rank"] == pytest.approx(1.0)
    corners = np.array(np.meshgrid(*[[-2, 2]] * 4), np.float32).reshape(4, -1).T[None, None]
    assert diagnostics.spread(corners)["std"] == pytest.approx(2.0)
    assert diagnostics.spread(corners)["rank"] == pytest.approx(4.0)
    assert diagnostics.spread(1e-9 * corners)["rank"] == pytest.approx(4.0)  # of any scale
    constant = diagnostics.spread(np.full_like(corners, 7.0))
    assert constant["std"] == constant["rank"] == 0.0


def test_gradient_norms_are_those_of_a_step_with_one_loss():
    """The whole gradient, as a training step logs it, of an objective of one loss alone."""
    rows = {"ce": {"weight": 1.0}, "dml": {"weight": 0.5}}
    created, _, _ = tiny.make_run(rows)
    batch, made = tiny.make_batch(), tiny.make_pair(())

    def quick(fn, table, **more):
        of = {"pair": made, "objective": objective.build_objective(table), "jitter": {}}
        options = {"xla_backend_optimization_level": 0}
        return jax.jit(functools.partial(fn, **of, **more), compiler_options=options)

    actual = quick(step.gradient_norms, rows)(created, batch)
    assert set(actual) == {f"{s}/{t}_grad_norm" for s in ("cnn", "vit") for t in rows}
    table = {"ce": {"weight": 0.0}, "dml": {"weight": 1.0}}
    one = quick(step.train_step, table, optimizers=tiny.make_optimizers())
    _, logs = one(created, batch)
    for student in ("cnn", "vit"):
        expected = float(logs[f"{student}/grad_norm"])
        assert expected > 1e-4
        assert actual[f"{student}/dml_grad_norm"] == pytest.approx(expected, rel=1e-4)
        assert actual[f"{student}/ce_grad_norm"] != pytest.approx(expected, rel=0.01)


def entries(**scale):
    return [
        {"step": s, **{f"{n}/{k}": v * s for n in ("cnn", "vit") for k, v in scale.items()}}
        for s in (2, 4)
    ]


def test_curves_are_means_over_runs():
    logs = [entries(taught=0.1), entries(taught=0.2), [{"step": 2, "eval/cnn/miou": None}]]
    curves = charts._mean_over_runs(logs)
    assert curves.keys() == {"cnn/taught", "vit/taught"}
    steps, values = curves["vit/taught"]
    assert steps == [2, 4]
    assert values == pytest.approx([0.3, 0.6])


@pytest.mark.parametrize(
    "logs",
    [
        {"": [entries(taught=0.1, ce_grad_norm=1.0, grad_norm=1.0, common_rank=3.0)]},
        {"alone": [entries(taught=0.1)], "full": [entries(taught=0.1, common_rank=2.0)] * 2},
        {"": [[]]},
        {},
    ],
    ids=["one run", "arms", "nothing logged", "no run"],
)
def test_figure_of_teaching(logs, tmp_path):
    charts.draw_teaching(tmp_path / "teaching.png", logs)
    assert Image.open(tmp_path / "teaching.png").size[0] > 1000
