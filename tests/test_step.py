"""One step: who gets which gradient, what a weight of 0 removes, devices, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from collabseg_jax import augment, objective, pair
from tests import tiny

OFF = {name: row | {"weight": 0.0} for name, row in tiny.FULL.items()}


def gradients(table):
    """Gradients of the sum of both students' losses, and the losses."""
    goal = objective.build(table)
    made = tiny.make_pair(("common", "hfd"))
    variables = pair.init(made, jax.random.key(0), size=(32, 32))
    batch = tiny.make_batch()
    images = augment.normalize(batch["image"])

    def loss(params):
        joined = {k: {**variables[k], "params": params[k]} for k in variables}
        output, _ = pair.forward(made, joined, images, rng=jax.random.key(2))
        totals, _ = objective.evaluate(goal, output, batch["label"], step=0, rng=jax.random.key(3))
        return totals["cnn"] + totals["vit"], totals

    params = {k: v["params"] for k, v in variables.items()}
    return jax.jit(jax.grad(loss, has_aux=True))(params)


def touched(grads):
    """The modules ("cnn/stage1", "bridges/g1c", ...) that get any gradient."""
    flat = traverse_util.flatten_dict(grads)
    sizes = {}
    for path, value in flat.items():
        key = "/".join(path[:2])
        sizes[key] = max(sizes.get(key, 0.0), float(jnp.abs(value).max()))
    return {key for key, size in sizes.items() if size > 0}


def only(name):
    return OFF | {name: tiny.FULL[name]}


ENCODERS = {f"{s}/stage{i}" for s in ("cnn", "vit") for i in range(1, 5)}


def test_hfd_reaches_first_stages_and_g1_only():
    grads, _ = gradients(only("hfd"))
    assert touched(grads) == {"cnn/stage1", "vit/stage1", "bridges/g1c", "bridges/g1v"}


def test_region_reaches_encoders_and_g4_only():
    grads, _ = gradients(only("bsd_region"))
    assert touched(grads) == ENCODERS | {"bridges/g4c", "bridges/g4v"}


@pytest.mark.parametrize("name", ["bsd_pixel", "ce"])
def test_logit_losses_reach_no_bridge(name):
    grads, _ = gradients(only(name))
    # The tiny classifier reads F1, so the later stages get nothing.
    heads = {f"{s}/{m}" for s in ("cnn", "vit") for m in ("stage1", "norm", "classifier")}
    assert touched(grads) == heads


@pytest.mark.parametrize("name", ["hfd", "bsd_region", "bsd_pixel"])
def test_a_students_loss_moves_only_the_learner(name):
    """The gradient of the CNN's own loss with respect to anything of the ViT is exactly 0."""
    goal = objective.build(only(name))
    made = tiny.make_pair(("common", "hfd"))
    variables = pair.init(made, jax.random.key(0), size=(32, 32))
    batch = tiny.make_batch()

    def loss(params, student):
        joined = {k: {**variables[k], "params": params[k]} for k in variables}
        output, _ = pair.forward(
            made, joined, augment.normalize(batch["image"]), rng=jax.random.key(2)
        )
        totals, _ = objective.evaluate(goal, output, batch["label"], step=0, rng=jax.random.key(3))
        return totals[student]

    params = {k: v["params"] for k, v in variables.items()}
    own_bridge = {"hfd": {"cnn": "g1c", "vit": "g1v"}, "bsd_region": {"cnn": "g4c", "vit": "g4v"}}
    for student in pair.STUDENTS:
        reached = touched(jax.jit(jax.grad(loss), static_argnums=1)(params, student))
        assert any(key.startswith(student) for key in reached)
        assert not any(key.startswith(pair.peer_of(student)) for key in reached)
        bridges = {key.split("/")[1] for key in reached if key.startswith("bridges")}
        expected = own_bridge.get(name)
        assert bridges == ({expected[student]} if expected else set())


def test_borrowed_pass_leaves_running_averages_alone():
    made = tiny.make_pair(("hfd",))
    variables = pair.init(made, jax.random.key(0), size=(32, 32))
    images = augment.normalize(tiny.make_batch()["image"])

    def statistics(pair_):
        forward = jax.jit(lambda v: pair.forward(pair_, v, images, rng=jax.random.key(2))[1])
        return forward(variables)

    with_hfd, without = statistics(made), statistics(pair.Pair(made.cnn, made.vit))
    jax.tree.map(np.testing.assert_array_equal, with_hfd, without)


def test_weight_zero_removes_the_term_from_the_program():
    """No log key, and fewer operations."""
    batch = tiny.make_batch()
    costs, keys = {}, {}
    for name, table in {
        "full": tiny.FULL,
        "without": tiny.FULL | {"bsd_pixel": tiny.FULL["bsd_pixel"] | {"weight": 0.0}},
        "absent": {k: v for k, v in tiny.FULL.items() if k != "bsd_pixel"},
    }.items():
        created, step, _ = tiny.make_run(table)
        compiled = step.lower(created, batch).compile()
        costs[name] = compiled.cost_analysis()["flops"]
        keys[name] = set(compiled.output_shardings[1])
    assert costs["without"] == costs["absent"] < costs["full"]
    assert keys["without"] == keys["full"] - {"cnn/bsd_pixel", "vit/bsd_pixel"}


def test_no_bridges_without_features():
    created, _, _ = tiny.make_run({"ce": {"weight": 1.0}, "dml": {"weight": 1.0}})
    assert jax.tree.leaves(created.bridges.params) == []


def test_four_devices_equal_one():
    assert len(jax.devices()) >= 4
    results = []
    for devices in (1, 4):
        created, step, layout = tiny.make_run(batch_size=8, data=devices, lr=0.01)
        for seed in range(3):
            batch = layout.place(tiny.make_batch(8, seed=seed))
            created, logs = step(created, batch)
        results.append((jax.device_get(created), jax.device_get(logs)))
    (one, one_logs), (four, four_logs) = results
    for part in ("cnn", "vit", "bridges"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            getattr(one, part),
            getattr(four, part),
        )
    assert one_logs["cnn/ce"] == pytest.approx(four_logs["cnn/ce"], rel=1e-5)


def test_ramp_scales_the_distillation_terms():
    batch, totals = tiny.make_batch(), {}
    made = tiny.make_pair()
    variables = pair.init(made, jax.random.key(0), size=(32, 32))
    goal = objective.build(tiny.FULL, ramp_steps=10)

    @jax.jit
    def run(step):
        images = augment.normalize(batch["image"])
        output, _ = pair.forward(made, variables, images, rng=jax.random.key(2))
        return objective.evaluate(goal, output, batch["label"], step=step, rng=jax.random.key(3))

    for step in (0, 5, 10, 20):
        totals[step], logs = run(step)
    terms = sum(tiny.FULL[k]["weight"] * float(logs[f"vit/{k}"]) for k in goal.weights)
    ce = float(logs["vit/ce"])
    assert terms > 0
    for step, factor in ((0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0)):
        assert float(totals[step]["vit"]) == pytest.approx(ce + factor * terms, rel=1e-5)


def test_padded_rows_of_a_batch_count_for_nothing():
    """A row with valid False changes no loss of the others' pixels."""
    batch = tiny.make_batch(4)
    batch["valid"][3] = False
    other = {**batch, "label": batch["label"].copy()}
    other["label"][3] = 0
    logs = []
    for b in (batch, other):
        created, step, _ = tiny.make_run()
        logs.append(jax.device_get(step(created, b)[1]))
    assert logs[0] == logs[1]


def test_learns_a_tiny_set():
    created, step, _ = tiny.make_run(optimizer="adamw", lr=0.02, ramp_steps=10)
    batch, history = tiny.make_batch(), []
    for _ in range(60):
        created, logs = step(created, batch)
        history.append((float(logs["cnn/ce"]), float(logs["vit/ce"])))
    for first, last in zip(history[0], history[-1], strict=True):
        assert last < 0.5 * first


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"bsd_pixle": {"weight": 1.0}}, "bsd_pixel"),
        ({"hfd": {"weight": 1.0, "divergence": "cosin"}}, "cosine"),
        ({"bsd_pixel": {"weight": 1.0, "select": "lower"}}, "lower_ce"),
        ({"bsd_pixel": {"weight": -1.0}}, "losses.bsd_pixel.weight is -1.0"),
        ({"dml": {"weight": 1.0, "temperature": 0.0}}, "losses.dml.temperature"),
    ],
)
def test_bad_terms_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        objective.build({"ce": {"weight": 1.0}} | row)
