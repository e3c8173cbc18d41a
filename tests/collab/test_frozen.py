"""A frozen partner: it teaches as it is in evaluation, and nothing of it moves."""

import jax
import numpy as np
import pytest

from collabseg_jax.collab import augment, pair, sharding
from collabseg_jax.configs import base
from collabseg_jax.errors import InputError
from collabseg_jax.modes import train
from collabseg_jax.run.build import make_run
from collabseg_jax.run.checkpoint import Checkpoints
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
    statistics = jax.tree.leaves(moved.get("batch_stats", {}))
    assert all(statistics) and bool(statistics) == (learner == "cnn")  # the tiny ViT has none
    learnt = ("hfd", "bsd_region", "bsd_pixel", "grad_norm")
    assert not {f"{frozen}/{key}" for key in learnt} & set(logs)
    assert {f"{learner}/{key}" for key in learnt} <= set(logs)
    assert float(logs[f"{frozen}/total"]) == 0 < float(logs[f"{frozen}/ce"])


@pytest.mark.parametrize("frozen", [(), ("cnn",)])
def test_what_is_lent_is_normalised_as_the_stage_normalises(frozen):
    """By the statistics of what it is given; a frozen partner by its running ones, as all of it."""
    made = tiny.make_pair(("hfd",), frozen=frozen)
    variables = tiny.init(made)
    rng = np.random.default_rng(0)
    variables["cnn"]["batch_stats"] = jax.tree.map(
        lambda x: x + rng.uniform(0.1, 1, x.shape).astype(np.float32),
        variables["cnn"]["batch_stats"],
    )
    images = augment.normalize(tiny.make_batch()["image"])
    output, batch_stats = pair.forward(made, variables, images, rng=jax.random.key(2))
    assert set(batch_stats) == {"cnn", "vit"} - set(frozen)
    if frozen:  # as in evaluation: running statistics, no dropout
        expected = made.cnn.apply(variables["cnn"], images, train=False)
        jax.tree.map(np.testing.assert_array_equal, output.students["cnn"], expected)
    stages = (output.students[name].stages for name in ("cnn", "vit"))
    _, lent = made.bridges.apply(variables["bridges"], *stages)["hfd"]
    through = made.cnn.apply(
        variables["cnn"], 2, lent, batch_stats=not frozen, drop=False, method="stage"
    )
    np.testing.assert_array_equal(output.crossed["hfd"]["vit"], through)


def test_one_student_has_to_learn():
    config = base.get_config()
    config.cnn.frozen = config.vit.frozen = True
    with pytest.raises(InputError, match=r"config\.cnn\.frozen and config\.vit\.frozen are both"):
        make_run(config)


def custom(path, data_dir, **overrides):
    path.write_text("def loss(view):\n    return ((view.f4.mean() - view.peer.f4.mean()) ** 2)\n")
    row = {"losses.custom.fn": f"{path}:loss", "losses.custom.weight": 1.0, "cnn.frozen": True}
    return tiny.make_config(data_dir, **row, **overrides)


@pytest.mark.usefixtures("tiny_models")
def test_its_state_is_saved_and_restored(tmp_path):
    """And for that, nothing of a custom loss is needed."""
    path = tmp_path / "mine.py"
    config = custom(path, "")
    path.unlink()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    run = make_run(config, mesh=mesh)
    like = run.abstract_state()
    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), like.replace(rng=like.step))
    filled = jax.device_put(ones.replace(rng=jax.random.key(0)), sharding.replicated(mesh))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, filled)
    checkpoints.close()
    actual = run.restore(tmp_path)
    assert jax.tree.structure(actual) == jax.tree.structure(like)
    jax.tree.map(np.testing.assert_array_equal, actual.cnn, ones.cnn)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_models")
def test_a_whole_run(data_dir, tmp_path):
    config = custom(tmp_path / "mine.py", data_dir, **{"steps": 2, "eval.every": 0})
    workdir = tmp_path / "run"
    train.run(config, workdir)
    (tmp_path / "mine.py").unlink()
    actual = tiny.trained_arrays(workdir, config)
    assert actual["step"] == 2
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    fresh = make_run(config, mesh=mesh).initial_state()
    jax.tree.map(
        np.testing.assert_array_equal,
        (actual["cnn"].params, actual["cnn"].batch_stats),
        jax.device_get((fresh.cnn.params, fresh.cnn.batch_stats)),
    )
    logged = (workdir / "metrics.jsonl").read_text()
    assert "vit/custom" in logged and "cnn/custom" not in logged
