"""The fast formulations are only faster: whole loss curves, compared with what a rounding does."""

import functools

import jax
import numpy as np
import pytest

from collabseg_jax import ops
from collabseg_jax.collab import sharding
from collabseg_jax.configs import base
from collabseg_jax.run.build import make_run

STEPS = 50


def config(separable):
    c = base.use_method(base.get_config())
    c.steps, c.batch_size, c.data.crop = STEPS, 2, (64, 96)
    c.vit.drop_path = c.vit.dropout = c.cnn.dropout = 0.0
    c.cnn.atrous_rates, c.cnn.separable = (1, 2, 3), separable
    c.vit.lr = 1e-3
    return c


def curve(formulation, separable, noise=0.0, seed=0):
    """[STEPS, 2]: both totals, on batches that are the same but for `noise`, relative."""
    c = config(separable)
    run = make_run(c, mesh=sharding.make_mesh(devices=jax.devices()[:1]))
    state = run.initial_state()
    disturb, points = np.random.default_rng(seed), []
    with ops.using(formulation):
        train_step = run.jit_train_step()
        for number in range(STEPS):
            rng = np.random.default_rng(number % 4)  # few enough batches to learn them
            image = rng.integers(0, 256, (c.batch_size, *c.data.crop, 3)).astype(np.float32)
            image *= 1 + noise * disturb.choice([-1.0, 1.0], image.shape).astype(np.float32)
            label = rng.integers(0, 8, (c.batch_size, 4, 6)).repeat(16, 1).repeat(16, 2)
            batch = {
                "image": image,
                "label": label.astype(np.uint8),
                "valid": np.ones(c.batch_size, bool),
            }
            state, logs = train_step(state, run.layout.place(batch))
            points.append([float(logs[f"{name}/total"]) for name in ("cnn", "vit")])
    return np.array(points)


@pytest.mark.endless
@pytest.mark.parametrize("separable", [True, False])
def test_fast_formulations_change_no_more_than_a_rounding_does(separable):
    """ResNet-18 and MiT-B0, full method: at most 3 times a disturbance of 1e-7."""
    plain, fast = curve("plain", separable), curve("cpu", separable)
    reach = functools.partial(np.max, axis=0)
    difference = reach(np.abs(fast - plain))
    disturbed = [curve("plain", separable, 1e-7, seed) for seed in range(3)]
    rounding = reach([reach(np.abs(one - plain)) for one in disturbed])
    print(f"fast {difference}, a disturbance of 1e-7 {rounding}; from {plain[0]} to {plain[-1]}")
    assert (rounding > 0).all()
    assert (difference <= 3 * rounding).all()
