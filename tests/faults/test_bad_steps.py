"""Losses and gradients that are no numbers: steps are skipped, too many end the run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.errors import RunError
from collabseg_jax.modes import train
from tests import tiny
from tests.faults.runs import assert_same_arrays, make_config

pytestmark = pytest.mark.usefixtures("tiny_models")


def test_a_bad_batch_is_skipped_and_counted():
    """Not a bit changes but the counters, and a good batch then continues as if nothing was."""
    good, bad = tiny.make_batch(seed=1), tiny.make_batch(seed=2)
    bad = bad | {"image": np.where(np.arange(3) == 1, np.nan, bad["image"].astype(np.float32))}
    created, step, _ = tiny.make_run()
    before = jax.device_get((created.cnn, created.vit, created.bridges))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(before))
    after, logs = step(created, bad)
    assert_same_arrays(before, jax.device_get((after.cnn, after.vit, after.bridges)))
    assert not np.isfinite(float(logs["cnn/ce"]))
    assert (int(logs["skipped"]), int(logs["skipped_in_a_row"]), int(after.step)) == (1, 1, 1)
    after, logs = step(after, bad)
    assert (int(logs["skipped"]), int(logs["skipped_in_a_row"])) == (2, 2)
    after, logs = step(after, good)
    assert (int(logs["skipped"]), int(logs["skipped_in_a_row"])) == (2, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(after.cnn)))
    moved = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), before[0], after.cnn)
    assert any(jax.tree.leaves(moved))


def test_a_gradient_that_is_no_number_is_skipped_too():
    """The loss is finite, but its gradient overflows."""
    created, step, _ = tiny.make_run()
    huge = jax.tree.map(lambda p: jnp.full_like(p, 1e30), created.vit.params["norm"])
    params = created.vit.params | {"norm": huge}
    created = created.replace(vit=created.vit.replace(params=params))
    after, logs = step(created, tiny.make_batch())
    assert np.isfinite(float(logs["vit/total"])) and not np.isfinite(float(logs["vit/grad_norm"]))
    assert int(logs["skipped"]) == 1
    np.testing.assert_array_equal(after.vit.params["norm"]["scale"], np.float32(1e30))


def test_a_run_of_bad_steps_stops_and_names_the_term(data_dir, tmp_path, capfd):
    """Logits over a temperature this small overflow, in one term only."""
    config = make_config(data_dir, max_skipped=3, **{"losses.bsd_pixel.temperature": 1e-44})
    with pytest.raises(RunError) as error:
        train.run(config, tmp_path / "run")
    line = str(error.value)
    assert line.startswith("step 3: cnn/bsd_pixel is nan")
    assert "cnn/ce is" not in line and "vit/bsd_region is" not in line
    assert "3 steps skipped in a row (config.max_skipped = 3)" in line
    assert "step 1 skipped: cnn/bsd_pixel is nan" in capfd.readouterr().err
