"""One step: who gets which gradient, what a weight of 0 removes, devices, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from collabseg_jax.collab import augment, objective, pair, terms
from collabseg_jax.configs import base
from tests import tiny


def touched(grads):
    """The modules ("cnn/stage1", "bridges/g1c", ...) that get any gradient."""
    flat = traverse_util.flatten_dict(grads)
    sizes = {}
    for path, value in flat.items():
        key = "/".join(path[:2])
        sizes[key] = max(sizes.get(key, 0.0), float(np.abs(value).max()))
    return {key for key, size in sizes.items() if size > 0}


def reached(table, **options):
    """{"cnn/hfd": the modules that this term of this student moves, ...} of every term."""
    goal = objective.build_objective(table)
    made = tiny.make_pair(goal.needs, **options)
    variables = tiny.init(made)
    # Enough images for two positions of one class on the ViT's last map: ifvd compares those.
    batch = tiny.make_batch(size=16)
    names = [f"{student}/{term}" for term in table for student in pair.STUDENTS]

    def terms(params):
        joined = {k: {**variables[k], "params": params[k]} for k in variables}
        images = augment.normalize(batch["image"])
        output, _ = pair.forward(made, joined, images, rng=jax.random.key(2))
        _, logs = objective.evaluate_objective(
            goal, output, batch["label"], step=0, rng=jax.random.key(3)
        )
        return jnp.stack([logs[name] for name in names])

    @jax.jit
    def pull(params, cotangent):
        return jax.vjp(terms, params)[1](cotangent)[0]

    params = {k: v["params"] for k, v in variables.items()}
    rows = np.eye(len(names), dtype=np.float32)
    actual = (touched(jax.device_get(pull(params, row))) for row in rows)
    return dict(zip(names, actual, strict=True))


def of(student, *modules):
    return {f"{student}/{module}" for module in modules}


HEAD = ("stage1", "norm", "classifier")  # the tiny classifier reads F1
ENCODER = ("stage1", "stage2", "stage3", "stage4")
ON_LOGITS = ("ce", "bsd_pixel", "dml", "kd_mutual", "kdcl", "dist", "cwd")
BRIDGES = {  # what learns with the CNN; with the ViT it is the same with v
    "hfd": ("g1c",),
    "bsd_region": ("g4c",),
    "fitnet": ("p4c",),
    "mgd": ("a4c", "generator_c"),
}


def test_a_students_term_moves_only_the_learner_and_its_bridges():
    """The gradient of the CNN's own loss with respect to anything of the ViT is exactly 0."""
    actual = reached({name: {"weight": 1.0} for name in ("ce", *terms.TERMS)})
    for name in ("ce", *terms.TERMS):
        modules = {"hfd": ("stage1",), **dict.fromkeys(ON_LOGITS, HEAD)}.get(name, ENCODER)
        bridges = BRIDGES.get(name, ())
        assert actual[f"cnn/{name}"] == of("cnn", *modules) | of("bridges", *bridges), name
        bridges = [f"{bridge[:-1]}v" for bridge in bridges]
        assert actual[f"vit/{name}"] == of("vit", *modules) | of("bridges", *bridges), name


def test_what_the_variants_move():
    """Features in the peer's own shape; and borrowed stages that learn with what is lent them."""
    table = {"ce": {}, "hfd": {}, "bsd_region": {"space": "teacher"}, "cwd": {"on": "features"}}
    actual = reached({k: row | {"weight": 1.0} for k, row in table.items()}, borrowed_grad=True)
    assert actual["cnn/hfd"] == {"cnn/stage1", "bridges/g1c", "vit/stage2"}
    assert actual["vit/hfd"] == {"vit/stage1", "bridges/g1v", "cnn/stage2"}
    for name in ("bsd_region", "cwd"):
        assert actual[f"cnn/{name}"] == of("cnn", *ENCODER) | {"bridges/p4c"}
        assert actual[f"vit/{name}"] == of("vit", *ENCODER) | {"bridges/p4v"}


def test_borrowed_pass_leaves_running_averages_alone():
    made = tiny.make_pair(("hfd",))
    variables = tiny.init(made)
    images = augment.normalize(tiny.make_batch()["image"])

    def statistics(pair_):
        forward = jax.jit(lambda v: pair.forward(pair_, v, images, rng=jax.random.key(2))[1])
        return forward(variables)

    with_hfd, without = statistics(made), statistics(pair.Pair(made.cnn, made.vit))
    jax.tree.map(np.testing.assert_array_equal, with_hfd, without)


def test_weight_zero_removes_the_term_from_the_program():
    """No log key, and the very program of a table without the row."""
    batch = tiny.make_batch()
    every = {k: dict(row) | {"weight": 0.0} for k, row in base.get_config().losses.items()}
    used = {"ce", "hfd", "bsd_region"}
    texts, keys = {}, {}
    for name, table in {
        "full": tiny.FULL,
        "without": tiny.FULL | {k: row for k, row in every.items() if k not in used},
        "absent": {k: v for k, v in tiny.FULL.items() if k != "bsd_pixel"},
    }.items():
        created, step, _ = tiny.make_run(table)
        lowered = step.lower(created, batch)
        texts[name], keys[name] = lowered.as_text(), set(lowered.out_info[1])
    assert texts["without"] == texts["absent"] != texts["full"]
    assert keys["without"] == keys["full"] - {"cnn/bsd_pixel", "vit/bsd_pixel"}


def test_a_weight_of_one_student():
    row = {"weight": 0.5, "vit": 0.0}
    goal = objective.build_objective(
        {"ce": {"weight": 1.0, "cnn": 2.0}, "dml": row, "kdcl": row | {"cnn": 0}}
    )
    assert goal.ce_weights == {"cnn": 2.0, "vit": 1.0}
    assert goal.weights == {"dml": {"cnn": 0.5, "vit": 0.0}}
    assert objective.build_objective({"ce": {"weight": 1.0}, "hfd": {"weight": 0.0}}).needs == ()


def test_the_key_of_a_term_hangs_on_its_name():
    rng, actual = jax.random.key(5), set()
    for name in terms.NAMES:
        for student in pair.STUDENTS:
            actual.add(tuple(jax.random.key_data(objective.key_of(rng, name, student)).tolist()))
    assert len(actual) == 2 * len(terms.NAMES)
    by_hand = jax.random.fold_in(rng, 0x749E2051)  # crc32 of "hfd/cnn"
    assert objective.key_of(rng, "hfd", "cnn") == by_hand


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
    table = tiny.FULL | {"hfd": tiny.FULL["hfd"] | {"cnn": 0.0, "vit": 3.0}}
    made = tiny.make_pair()
    variables = tiny.init(made)
    goal = objective.build_objective(table, ramp_steps=10)

    @jax.jit
    def run(step):
        images = augment.normalize(batch["image"])
        output, _ = pair.forward(made, variables, images, rng=jax.random.key(2))
        return objective.evaluate_objective(
            goal, output, batch["label"], step=step, rng=jax.random.key(3)
        )

    for step in (0, 5, 10, 20):
        totals[step], logs = run(step)
    assert "cnn/hfd" not in logs
    weight = {"hfd": 0.9, "bsd_region": 0.5, "bsd_pixel": 0.3}
    distilled = sum(w * float(logs[f"vit/{k}"]) for k, w in weight.items())
    ce = float(logs["vit/ce"])
    assert distilled > 0
    for step, factor in ((0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0)):
        assert float(totals[step]["vit"]) == pytest.approx(ce + factor * distilled, rel=1e-5)


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
        ({"dml": {"weight": 1.0, "cnn": float("nan")}}, "losses.dml.cnn is nan"),
        ({"ce": {"weight": 1.0, "vit": -1}}, "losses.ce.vit is -1"),
        ({"bsd_region": {"weight": 1.0, "space": "teachers"}}, "space 'teachers'.* mean 'teacher'"),
        ({"kdcl": {"weight": 1.0, "ensemble": "min-logit"}}, "min_logit"),
        ({"cirkd": {"weight": 1.0, "region": -0.1}}, "losses.cirkd.region is -0.1"),
        ({"skd": {"weight": 1.0, "grid": 0}}, "losses.skd.grid is 0"),
    ],
)
def test_bad_terms_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        objective.build_objective({"ce": {"weight": 1.0}} | row)
