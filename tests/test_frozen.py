"""A frozen partner: it teaches as it is in evaluation, and nothing of it moves."""

import jax
import numpy as np
import pytest

from collabseg_jax import augment, experiment, pair, train
from collabseg_jax.errors import InputError
from configs import base
from tests import tiny


@pytest.mark.parametrize("frozen", pair.STUDENTS)
def test_nothing_of_it_moves(frozen):
    learner = pair.peer_of(frozen)
    created, step, layout = tiny.make_run(frozen=(frozen,))
    assert jax.tree.leaves(getattr(created, frozen).opt_state) == []
    before = jax.device_get({name: getattr(created, name).variables for name in pair.STUDENTS})
    created, logs = step(created, layout.place(tiny.make_batch()))
    after = jax.device_get({name: getattr(created, name).variables for name in pair.STUDENTS})
    jax.tree.map(np.testing.assert_array_equal, after[frozen], before[frozen])
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after[learner], before[learner])
    assert all(jax.tree.leaves(moved["params"]))
    of_it = {key for key in logs if key.startswith(f"{frozen}/")}
    assert not of_it & {
        f"{frozen}/{key}" for key in ("hfd", "bsd_region", "bsd_pixel", "grad_norm")
    }
    assert {f"{learner}/{key}" for key in ("hfd", "bsd_region", "bsd_pixel")} <= set(logs)
    assert float(logs[f"{frozen}/total"]) == 0 < float(logs[f"{frozen}/ce"])


def test_it_runs_as_in_evaluation():
    """Its running statistics, no dropout: and what the learner is lent goes through the same."""
    made = tiny.make_pair(("hfd",), frozen=("cnn",))
    variables = tiny.init(made)
    rng = np.random.default_rng(0)
    variables["cnn"]["batch_stats"] = jax.tree.map(
        lambda x: x + rng.uniform(0.1, 1, x.shape).astype(np.float32),
        variables["cnn"]["batch_stats"],
    )
    images = augment.normalize(tiny.make_batch()["image"])
    output, batch_stats = pair.forward(made, variables, images, rng=jax.random.key(2))
    expected = made.cnn.apply(variables["cnn"], images, train=False)
    jax.tree.map(np.testing.assert_array_equal, output.students["cnn"], expected)
    assert set(batch_stats) == {"vit"}
    vit_f1 = output.students["vit"].stages[0]
    _, lent = made.bridges.apply(
        variables["bridges"], output.students["cnn"].stages[0], vit_f1, method="lend"
    )
    through = made.cnn.apply(
        variables["cnn"], 2, lent, batch_stats=False, drop=False, method="stage"
    )
    np.testing.assert_array_equal(output.borrowed["vit"], through)


def test_one_student_has_to_learn():
    config = base.get_config()
    config.cnn.frozen = config.vit.frozen = True
    with pytest.raises(InputError, match=r"config\.cnn\.frozen and config\.vit\.frozen are both"):
        experiment.build(config, num_classes=3)


@pytest.mark.usefixtures("tiny_models")
def test_a_run_with_a_frozen_partner_and_a_custom_loss(data_dir, tmp_path):
    """It stops, continues and can be evaluated; for that the custom loss is not needed."""
    path = tmp_path / "mine.py"
    path.write_text("def loss(view):\n    return ((view.f4.mean() - view.peer_f4.mean()) ** 2)\n")
    overrides = {"cnn.frozen": True, "losses.custom.fn": f"{path}:loss"}
    overrides |= {"losses.custom.weight": 1.0, "steps": 2, "eval.every": 0}
    config = tiny.make_config(data_dir, **overrides)
    workdir = tmp_path / "run"
    train.run(config, workdir)
    path.unlink()
    found = tiny.trained_arrays(workdir, config)
    assert found["step"] == 2
    made = experiment.build(config, num_classes=8).pair
    fresh = jax.jit(lambda: pair.init(made, experiment._key(config, 0)))()
    jax.tree.map(
        np.testing.assert_array_equal,
        (found["cnn"].params, found["cnn"].batch_stats),
        (fresh["cnn"]["params"], fresh["cnn"]["batch_stats"]),
    )
    assert "custom" in (workdir / "config.json").read_text()
