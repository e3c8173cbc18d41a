"""The best checkpoint: which one it is, that it is kept, and what decides."""

import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.modes import train
from collabseg_jax.run.checkpoint import METRIC, Checkpoints


def test_the_best_is_found_and_kept_beside_the_latest(tmp_path):
    scores = {1: 0.3, 2: 0.9, 3: 0.2, 4: None, 5: 0.4}
    states = {step: {"a": jnp.full(3, float(step))} for step in scores}
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    for step, score in scores.items():
        metrics = None if score is None else {METRIC: score}
        checkpoints.save(step, states[step], metrics=metrics)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.best_step() == 2
    assert again.steps() == [2, 5]
    np.testing.assert_array_equal(again.restore(2, states[5])["a"], states[2]["a"])
    again.close()


def test_both_students_decide():
    results = {"cnn": {"miou": 0.2}, "vit": {"miou": 0.6}, "ensemble": {"miou": 0.9}}
    assert train.mean_miou(results) == pytest.approx(0.4)
    assert train.mean_miou(results | {"cnn": {"miou": None}}) == pytest.approx(0.3)
