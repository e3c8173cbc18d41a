"""`--mode=compile`: what a step takes, on the devices here and on TPUs that are not."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import main
from collabseg_jax.errors import InputError
from collabseg_jax.modes import compile
from collabseg_jax.run.build import make_run
from tests import tiny

TPU = importlib.util.find_spec("libtpu") is not None


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    tiny.install(monkeypatch)


def config(**overrides):
    return tiny.make_config("", **overrides)


def bytes_of(tree):
    """Of arrays or their shapes, a key of jax.random as its numbers."""

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return 8
        return int(np.prod(x.shape)) * x.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def test_what_the_step_of_a_config_takes_here(capsys):
    """No data, no weights; the arguments of a device are exactly the state and its images."""
    asked, devices = config(), jax.device_count()
    assert devices == 4
    state = bytes_of(make_run(asked).abstract_state())
    image = 32 * 32 * (3 + 1) + 1
    actual = main.run(asked, mode="compile", workdir="unused")
    assert actual["arguments_gib"] * 2**30 == pytest.approx(state + image, abs=64)
    assert actual["fits"] and actual["images"] == 1
    assert actual["peak_gib"] >= actual["arguments_gib"] + actual["temporaries_gib"]
    # At the very least the way there and back of the first convolution, 3x3 of 3 to 4.
    assert actual["gflop"] * 1e9 > 8 * 8 * 9 * 3 * 4 * 2 * 2
    text = capsys.readouterr().out
    assert "tiny_cnn and tiny_vit" in text
    assert f"{actual['peak_gib']:.2f} GiB" in text


def test_a_batch_that_the_devices_cannot_share():
    with pytest.raises(InputError, match="config.mesh is data=3"):
        compile.run(config(**{"mesh.data": 3}))


def test_an_unknown_topology():
    """Also what is said without a compiler for TPUs."""
    with pytest.raises(InputError, match=r"config.compile.topology is 'v9z:1x1'.*like v5e:4x4"):
        compile.run(config(**{"compile.topology": "v9z:1x1"}))


def test_what_the_compiler_says_of_a_program_that_does_not_fit():
    said = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 31.49G of 15.75G hbm. Exceeded hbm capacity by 15.74G."
    )
    actual = compile._too_large(jax.errors.JaxRuntimeError(said))
    assert actual == {"fits": False, "needs_gib": 31.49, "has_gib": 15.75}
    with pytest.raises(jax.errors.JaxRuntimeError, match="UNIMPLEMENTED"):
        compile._too_large(jax.errors.JaxRuntimeError("UNIMPLEMENTED: no"))


@pytest.mark.parametrize("limit", [100 * 2**30, 1000])
def test_memory_of_a_device_that_is_here(limit):
    """A compiler for GPUs compiles what does not fit: only the device says how much it has."""
    compiled = jax.jit(lambda x: x + 1).lower(jnp.zeros(1000)).compile()
    actual = compile._costs(compiled, {"bytes_limit": limit})
    assert actual["fits"] == (limit > 8000)
    if not actual["fits"]:
        assert actual == {"fits": False, "needs_gib": 8000 / 2**30, "has_gib": 1000 / 2**30}


@pytest.mark.slow
@pytest.mark.skipif(not TPU, reason="needs libtpu (the extra tpu)")
def test_tpus_that_are_not_here():
    actual = compile.run(config(**{"compile.topology": "v5e:2x2", "mesh.space": 1}))
    assert (actual["devices"], actual["images"], actual["fits"]) == (4, 1, True)
    assert "v5" in actual["kind"].lower()
