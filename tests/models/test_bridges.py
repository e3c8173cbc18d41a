"""The projections between the students."""

import functools

import jax
import jax.numpy as jnp
import pytest

from collabseg_jax.models import Bridges
from tests.models import cases
from tests.models import reference as ref

CNN, VIT = (3, 5, 6, 7), (4, 6, 8, 10)


def bridges(kinds=("hfd", "common")):
    module = Bridges(CNN, VIT, kinds, common_channels=11)
    cnn = [
        cases.noise(2, 8 // n, 6 // n, c, seed=c) for c, n in zip(CNN, (1, 1, 2, 2), strict=True)
    ]
    vit = [
        cases.noise(2, 8 // n, 6 // n, c, seed=c) for c, n in zip(VIT, (1, 1, 2, 2), strict=True)
    ]
    vit[3] = vit[3][:, :2, :2]
    return module, cases.module_variables(module, cnn, vit), cnn, vit


def test_lend_is_in_the_shape_of_the_peer():
    module, variables, cnn, vit = bridges()
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[0], vit[0]))
    to_vit, to_cnn = module.apply(variables, cnn[0], vit[0], method="lend")
    assert cases.difference(to_vit, ref.linear(c, p["g1c"])) < 1e-6
    assert cases.difference(to_cnn, v @ p["g1v"]["kernel"][0, 0]) < 1e-6
    assert (to_vit.shape, to_cnn.shape) == (vit[0].shape, cnn[0].shape)


def test_lend_between_different_grids():
    module, variables, cnn, vit = bridges()
    to_vit, to_cnn = module.apply(variables, cnn[0], vit[0][:, :5, :3], method="lend")
    assert (to_vit.shape, to_cnn.shape) == ((2, 5, 3, 4), cnn[0].shape)


def test_common_is_on_the_grid_of_the_cnn():
    module, variables, cnn, vit = bridges()
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[3], vit[3]))
    got_cnn, got_vit = module.apply(variables, cnn[3], vit[3], method="common")
    assert cases.difference(got_cnn, ref.linear(c, p["g4c"])) < 1e-6
    assert cases.difference(got_vit, ref.resize(ref.linear(v, p["g4v"]), (4, 3))) < 1e-6


@pytest.mark.parametrize(
    ("kinds", "built"),
    [
        (("hfd",), {"g1c", "g1v"}),
        (("common",), {"g4c", "g4v"}),
        (("hfd", "common"), {"g1c", "g1v", "g4c", "g4v"}),
    ],
)
def test_only_what_is_needed_is_built(kinds, built):
    module, _, cnn, vit = bridges(kinds)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), cnn, vit))["params"]
    assert set(params) == built
    # no bias before a borrowed BatchNorm stage (docs/method.md)
    assert {k for k in built if "bias" not in params[k]} == built & {"g1v"}


def test_common_is_float32_under_bfloat16():
    _, variables, cnn, vit = bridges()
    module = Bridges(CNN, VIT, common_channels=11, dtype=jnp.bfloat16)
    for method, i, dtype in (("common", 3, jnp.float32), ("lend", 0, jnp.bfloat16)):
        run = functools.partial(module.apply, method=method)
        assert {a.dtype for a in jax.eval_shape(run, variables, cnn[i], vit[i])} == {
            jnp.dtype(dtype)
        }
