"""What a config says arrives where it is used, key by key."""

import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from collabseg_jax import interop
from collabseg_jax.collab import pair, sharding
from collabseg_jax.collab.inference import Inference
from collabseg_jax.configs import quickstart
from collabseg_jax.run import build
from collabseg_jax.run.build import make_run
from tests import tiny


def test_every_key_of_an_optimizer_reaches_it(monkeypatch):
    given = []
    monkeypatch.setattr(build, "build_optimizer", lambda **k: given.append(k))
    config = quickstart.get_config()
    config.steps, config.warmup_steps = 400, 7
    config.cnn.optimizer = config.vit.optimizer = "sgd"  # adamw has no momentum
    keys = ("lr", "momentum", "weight_decay", "power", "head_lr_mult", "clip_norm")
    expected = []
    for i, part in enumerate(pair.PARTS):
        row = {key: (10 * i + j) / 100 for j, key in enumerate(keys) if key in config[part]}
        config[part].update(row)
        rest = {"optimizer": config[part].optimizer, "warmup_steps": 0 if part == "cnn" else 7}
        expected.append({"steps": 400, "momentum": None, **rest, **row})
    make_run(config)
    assert given == expected


@pytest.mark.parametrize(("steps", "warmup", "ramp"), [(400, 20, 100), (19, 0, 4)])
def test_shares_of_the_steps(monkeypatch, steps, warmup, ramp):
    given = []
    monkeypatch.setattr(build, "build_optimizer", lambda **k: given.append(k))
    config = quickstart.get_config()
    config.steps, config.warmup_steps, config.ramp_steps = steps, -1, -1
    run = make_run(config)
    assert [row["warmup_steps"] for row in given] == [0, warmup, warmup]
    assert run.objective.ramp_steps == ramp


def test_how_images_are_looked_at():
    config = quickstart.get_config()
    config.eval.window, config.eval.stride = (96, 128), (48, 64)
    config.eval.scales, config.eval.flip = (0.5, 2.0), True
    expected = Inference(window=(96, 128), stride=(48, 64), scales=(0.5, 2.0), flip=True)
    assert make_run(config).inference == expected


def run_of(seed):
    config = quickstart.get_config()
    config.seed = seed
    return make_run(config)


def test_each_seed_draws_its_own():
    keys = [
        tuple(jax.random.key_data(run_of(seed)._key(i)).tolist()) for seed in (0, 1) for i in (0, 1)
    ]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("student", pair.STUDENTS)
def test_pretrained_weights_are_those_that_training_begins_with(monkeypatch, student):
    """And the other student's are left alone."""
    fresh = {
        name: {"params": {"a": np.full(3, i, np.float32)}, "batch_stats": {}}
        for i, name in enumerate(pair.PARTS)
    }

    def load(path, *, name, model, variables):
        assert (path, name, model) == ("file", f"the {student}", f"module of {student}")
        return variables | {"params": {"a": variables["params"]["a"] + 10}}, "loaded"

    monkeypatch.setattr(interop, "load_pretrained", load)
    monkeypatch.setattr(build, "init_part", lambda _, part, key: fresh[part])
    config = ConfigDict({"seed": 0})
    for name in pair.STUDENTS:
        config[name] = {"pretrained": "file" if name == student else "", "model": f"the {name}"}
    modules = {name: f"module of {name}" for name in pair.STUDENTS}
    run = build.Run(
        config=config,
        spec=None,
        pair=types.SimpleNamespace(frozen=(), **modules),
        objective=None,
        optimizers=tiny.make_optimizers(),
        jitter={},
        inference=None,
        given_mesh=sharding.make_mesh(devices=jax.devices()[:1]),
    )
    state = run.initial_state()
    for i, name in enumerate(pair.PARTS):
        expected = np.full(3, i + (10 if name == student else 0), np.float32)
        np.testing.assert_array_equal(getattr(state, name).params["a"], expected)
