"""Runs of one seed begin alike and see alike, whatever their losses: studies compare in pairs."""

import functools

import jax
import numpy as np
import pytest

from collabseg_jax.collab import augment, pair, sharding, step
from collabseg_jax.configs.studies import base
from collabseg_jax.run.build import make_run
from tests import tiny

pytestmark = pytest.mark.usefixtures("tiny_models")

ARMS = base.get_config("quickstart").arms


def arrays(tree):
    def plain(x):
        return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.device_get(jax.tree.map(plain, tree))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, arrays(one), arrays(other))


@functools.cache
def begun(arm):
    config = tiny.make_config("", **ARMS[arm], **{"vit.drop_path": 0.5})
    run = make_run(config, mesh=sharding.make_mesh(devices=jax.devices()[:1]))
    return run, run.initial_state()


def test_arms_have_different_bridges():
    """Otherwise the tests below would show nothing."""
    assert not begun("alone")[1].bridges.params
    assert len(begun("full")[1].bridges.params) == 4


def test_initial_weights_are_the_same_bits():
    _, alone = begun("alone")
    _, other = begun("full")
    for name in pair.STUDENTS:
        assert_same(getattr(alone, name).variables, getattr(other, name).variables)
    assert_same(alone.rng, other.rng)


class Seen(Exception):
    """Enough was seen of a step."""


def keys_of_step(arm, number, monkeypatch):
    """The keys that a training step hands to the jitter and to both students."""
    built, state = begun(arm)
    seen = {}

    def jitter(images, key, **_):
        seen["augment"] = key
        return images

    def forward(_, variables, images, *, rng):
        seen["forward"] = rng
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(step, "color_jitter", jitter)
        patch.setattr(step, "forward", forward)
        with pytest.raises(Seen):
            step.train_step(
                state.replace(step=state.step + number),
                tiny.make_batch(shape=(32, 32)),
                pair=built.pair,
                objective=built.objective,
                optimizers=built.optimizers,
                jitter={},
            )
    return seen


def test_jitter_and_dropout_draw_from_the_same_keys(monkeypatch):
    for number in (0, 3):
        alone = keys_of_step("alone", number, monkeypatch)
        other = keys_of_step("full", number, monkeypatch)
        assert alone.keys() == other.keys() == {"augment", "forward"}
        assert_same(alone, other)
    assert not np.array_equal(
        arrays(keys_of_step("alone", 0, monkeypatch)["forward"]), arrays(alone["forward"])
    )


def test_a_step_jitters_and_normalises_and_counts(monkeypatch):
    """The strengths reach the jitter, its images the students, and the step number the ramp."""
    built, state = begun("full")
    batch, seen = tiny.make_batch(shape=(32, 32)), {}
    jittered = batch["image"][:, ::-1]

    def jitter(images, key, **strengths):
        seen.update(strengths, image=images)
        return jittered

    def forward(_, variables, images, *, rng):
        seen["images"] = images
        return None, {}

    def evaluate(*_, step, **__):
        seen["step"] = int(step)
        raise Seen

    monkeypatch.setattr(step, "color_jitter", jitter)
    monkeypatch.setattr(step, "forward", forward)
    monkeypatch.setattr(step, "evaluate_objective", evaluate)
    with pytest.raises(Seen):
        step.train_step(
            state.replace(step=state.step + 3),
            batch,
            pair=built.pair,
            objective=built.objective,
            optimizers=built.optimizers,
            jitter={"hue": 0.1, "contrast": 0.4},
        )
    assert (seen["hue"], seen["contrast"], seen["step"]) == (0.1, 0.4, 3)
    np.testing.assert_array_equal(seen["image"], batch["image"])
    np.testing.assert_array_equal(seen["images"], augment.normalize(jittered))


def test_dropout_and_stochastic_depth_drop_the_same():
    """In training mode with one key, both students give the same bits with any bridges."""
    images = augment.normalize(tiny.make_batch(shape=(32, 32))["image"])
    _, full = begun("full")
    said = {}
    for arm in ("alone", "full"):
        made = begun(arm)[0].pair
        variables = {k: getattr(full, k).variables for k in pair.PARTS}
        output, _ = pair.forward(made, variables, images, rng=jax.random.key(5))
        said[arm] = {name: output.students[name].logits for name in pair.STUDENTS}
    assert_same(said["alone"], said["full"])
    output, _ = pair.forward(made, variables, images, rng=jax.random.key(6))
    assert np.any(output.students["vit"].logits != said["full"]["vit"])  # something is dropped
