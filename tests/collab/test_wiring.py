"""From a forward pass to totals and logs: every term gets the learner's and the peer's own side.

Selection carries no gradient, so a swapped side would show nowhere else.
"""

import jax
import numpy as np
import pytest

from collabseg_jax.collab import objective, pair, terms
from collabseg_jax.models.outputs import SegOutput
from tests.losses import reference as ref

CLASSES, SIZE = 3, (8, 8)  # the heads' own resolution too, so that nothing is interpolated
WEIGHT, RAMP, STEP = {"cnn": 0.5, "vit": 1.0}, 10, 4
# Options of rows in the first and in the second case; the rest are the losses' own defaults.
CASES = {
    "by error": {
        "hfd": {"divergence": "mse"},
        "bsd_region": {"divergence": "mse"},
        "bsd_pixel": {"temperature": 2.0},
        "kdcl": {"ensemble": "naive"},
        "cwd": {"temperature": 2.0},
    },
    "by right answers": {
        "bsd_region": {"space": "teacher", "divergence": "mse", "select": "lower_ce_correct"},
        "bsd_pixel": {"select": "lower_ce_correct"},
        "kdcl": {"ensemble": "min_logit"},
        "cwd": {"on": "features"},
    },
}


@pytest.fixture
def made():
    """(labels, PairOutput of random arrays in which no two students' are alike)."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=(2, *shape)).astype(np.float32)

    labels = rng.integers(0, CLASSES, (2, *SIZE)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    f2 = {"cnn": draw(4, 4, 5), "vit": draw(4, 4, 6)}
    f4 = {"cnn": draw(4, 4, 3), "vit": draw(2, 2, 4)}
    students = {
        s: SegOutput((f2[s], f2[s], f2[s], f4[s]), f4[s], draw(*SIZE, CLASSES))
        for s in pair.STUDENTS
    }
    return labels, pair.PairOutput(
        students,
        {
            "hfd": {"cnn": draw(4, 4, 6), "vit": draw(4, 4, 5)},
            "common": {s: draw(4, 4, 7) for s in pair.STUDENTS},
            "to_peer": {"cnn": draw(2, 2, 4), "vit": draw(4, 4, 3)},
            "mgd": {"cnn": draw(2, 2, 4), "vit": draw(4, 4, 3)},
        },
    )


def expected_terms(learner, output, labels, options):
    """{term: value} of what `learner` is taught, from the formulas."""
    peer, valid = pair.peer_of(learner), labels != 255
    z = {s: output.students[s].logits for s in pair.STUDENTS}
    ce = {s: ref.cross_entropy(z[s], labels)[0] for s in pair.STUDENTS}
    (f2, f4), (peer_f2, peer_f4) = (
        (output.students[s].stages[1], output.students[s].stages[3]) for s in (learner, peer)
    )
    right = {"teacher_correct": z[peer].argmax(-1) == labels}
    region = dict(options.get("bsd_region", {}))
    if region.pop("space", "common") == "teacher":
        sides = output.crossed["to_peer"][learner], peer_f4
    else:
        sides = output.crossed["common"][learner], output.crossed["common"][peer]
    cwd = dict(options.get("cwd", {}))
    cwd_sides = z[learner], z[peer]
    if cwd.pop("on", "logits") == "features":
        cwd_sides = output.crossed["to_peer"][learner], peer_f4
    errors, classes = (ce[learner], ce[peer], valid), {"num_classes": CLASSES}
    return {
        "hfd": ref.hfd(output.crossed["hfd"][learner], peer_f2, **options.get("hfd", {})),
        "bsd_region": ref.bsd_region(*sides, *errors, **region, **right),
        "bsd_pixel": ref.bsd_pixel(z[learner], z[peer], *errors, **options["bsd_pixel"], **right),
        "dml": ref.dml(z[learner], z[peer], valid),
        "kd_mutual": ref.kd_mutual(z[learner], z[peer], valid),
        "kdcl": ref.kdcl(z[learner], z[peer], *errors[:2], labels, valid, **options["kdcl"]),
        "dist": ref.dist(z[learner], z[peer], valid),
        "cwd": ref.cwd(*cwd_sides, valid, **cwd),
        "at": ref.at(f4, peer_f4, valid),
        "fitnet": ref.fitnet(output.crossed["to_peer"][learner], peer_f4, valid),
        "mgd": ref.mgd(output.crossed["mgd"][learner], peer_f4, valid),
        "skd": ref.skd(f4, peer_f4, valid),
        "ifvd": ref.ifvd(f4, peer_f4, labels, valid, **classes),
        "cirkd": ref.cirkd(f4, peer_f4, labels, valid, **classes),
    }


@pytest.mark.parametrize("case", CASES)
def test_every_term_sees_both_sides_as_they_are(made, case):
    labels, output = made
    rows = {t: {"weight": 0.5, "vit": 2.0, **CASES[case].get(t, {})} for t in terms.TERMS}
    goal = objective.build_objective({"ce": {"weight": 1.0}} | rows, ramp_steps=RAMP)

    def evaluate(output):
        return objective.evaluate_objective(goal, output, labels, step=STEP, rng=jax.random.key(0))

    options = {"xla_backend_optimization_level": 0}
    totals, logs = jax.jit(evaluate, compiler_options=options)(output)
    valid = labels != 255
    for learner in pair.STUDENTS:
        expected = expected_terms(learner, output, labels, CASES[case])
        assert expected.keys() == terms.TERMS.keys()
        for term, value in expected.items():
            actual = logs[f"{learner}/{term}"]
            np.testing.assert_allclose(actual, value, rtol=2e-5, err_msg=f"{learner}/{term}")
        logits = {s: output.students[s].logits for s in pair.STUDENTS}
        ce = {s: ref.cross_entropy(logits[s], labels)[0] for s in pair.STUDENTS}
        peer = pair.peer_of(learner)
        total = ref.masked_mean(ce[learner], valid)
        total += STEP / RAMP * WEIGHT[learner] * sum(expected.values())
        np.testing.assert_allclose(totals[learner], total, rtol=2e-5)
        taught = (ce[peer] < ce[learner]) & valid
        np.testing.assert_allclose(logs[f"{learner}/taught"], taught.sum() / valid.sum(), rtol=1e-5)
        right = (logits[peer].argmax(-1) == labels)[taught].mean()
        np.testing.assert_allclose(logs[f"{learner}/teacher_correct"], right, rtol=1e-5)
