"""The projections between the students."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.collab import pair
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


def test_to_peer_is_in_the_shape_of_the_peer():
    module, variables, cnn, vit = bridges(("to_peer",))
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[3], vit[3]))
    to_vit, to_cnn = module.apply(variables, cnn[3], vit[3], method="to_peer")
    assert cases.difference(to_vit, ref.resize(ref.linear(c, p["p4c"]), (2, 2))) < 1e-6
    assert cases.difference(to_cnn, ref.resize(ref.linear(v, p["p4v"]), (4, 3))) < 1e-6


def test_what_is_masked_is_completed_from_the_rest():
    module, variables, cnn, vit = bridges(("mgd",))
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[3], vit[3]))
    rng = np.random.default_rng(0)
    keep = [rng.random((2, *grid, 1)) < 0.5 for grid in ((2, 2), (4, 3))]
    made = module.apply(variables, cnn[3], vit[3], *keep, method="generate")

    def generate(x, projection, generator, kept):
        x = ref.resize(ref.linear(x, projection), kept.shape[1:3]) * kept
        for i, name in enumerate(("conv1", "conv2")):
            layer = generator[name]
            x = ref.conv(np.maximum(x, 0) if i else x, layer["kernel"], padding=1) + layer["bias"]
        return x

    expected = (
        generate(c, p["a4c"], p["generator_c"], keep[0]),
        generate(v, p["a4v"], p["generator_v"], keep[1]),
    )
    for got, wanted in zip(made, expected, strict=True):
        assert cases.difference(got, wanted) < 1e-6


def test_masks_are_of_their_ratio_and_never_the_same():
    features = jnp.zeros((2, 64, 64, 3))

    def keep(student, key=0, ratio=0.75):
        made = pair.Pair(None, None, None, mask_ratio=ratio)
        return np.asarray(pair._keep(made, student, features, jax.random.key(key)))

    cnn = keep("cnn")
    assert cnn.shape == (2, 64, 64, 1)
    # Four standard deviations of the mean of 8192 draws.
    assert abs(cnn.mean() - 0.25) < 4 * (0.75 * 0.25 / cnn.size) ** 0.5
    for other in (keep("vit"), keep("cnn", key=1), cnn[::-1]):
        assert 0.3 < (cnn != other).mean() < 0.45  # 2 * 0.75 * 0.25 if they are independent
    assert keep("cnn", ratio=0.0).all() and not keep("cnn", ratio=1.0).any()


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
