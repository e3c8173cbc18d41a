"""The projections between the students."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.collab import pair
from collabseg_jax.models.bridges import KINDS, Bridges
from tests.models import cases
from tests.models import reference as ref

CNN, VIT = (3, 5, 6, 7), (4, 6, 8, 10)


def bridges(*kinds):
    """A module with these kinds, random variables, and stages; the F4 have different grids."""
    module = Bridges(CNN, VIT, kinds, common_channels=11)
    cnn = [
        cases.noise(2, 8 // n, 6 // n, c, seed=c) for c, n in zip(CNN, (1, 1, 2, 2), strict=True)
    ]
    vit = [
        cases.noise(2, 8 // n, 6 // n, c, seed=c) for c, n in zip(VIT, (1, 1, 2, 2), strict=True)
    ]
    vit[3] = vit[3][:, :2, :2]
    return module, cases.module_variables(module, cnn, vit), cnn, vit


@pytest.mark.parametrize("kinds", [(), *itertools.combinations(KINDS, 2), KINDS])
def test_exactly_the_kinds_that_are_built_come_back(kinds):
    module, variables, cnn, vit = bridges(*kinds)
    crossed = jax.eval_shape(module.apply, variables, cnn, vit)
    assert set(crossed) == set(kinds)
    assert all(len(sides) == 2 for sides in crossed.values())


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind of bridge 'hdf'.*did you mean 'hfd'"):
        bridges("hdf")


def test_hfd_is_in_the_shape_of_the_peer():
    module, variables, cnn, vit = bridges("hfd")
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[0], vit[0]))
    to_vit, to_cnn = module.apply(variables, cnn, vit)["hfd"]
    assert cases.difference(to_vit, ref.linear(c, p["g1c"])) < 1e-6
    assert cases.difference(to_cnn, v @ p["g1v"]["kernel"][0, 0]) < 1e-6
    assert (to_vit.shape, to_cnn.shape) == (vit[0].shape, cnn[0].shape)


def test_hfd_between_different_grids():
    module, variables, cnn, vit = bridges("hfd")
    vit[0] = vit[0][:, :5, :3]
    to_vit, to_cnn = module.apply(variables, cnn, vit)["hfd"]
    assert (to_vit.shape, to_cnn.shape) == ((2, 5, 3, 4), cnn[0].shape)


def test_common_is_on_the_grid_of_the_cnn():
    module, variables, cnn, vit = bridges("common")
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[3], vit[3]))
    got_cnn, got_vit = module.apply(variables, cnn, vit)["common"]
    assert cases.difference(got_cnn, ref.linear(c, p["g4c"])) < 1e-6
    assert cases.difference(got_vit, ref.resize(ref.linear(v, p["g4v"]), (4, 3))) < 1e-6


def test_to_peer_is_in_the_shape_of_the_peer():
    module, variables, cnn, vit = bridges("to_peer")
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[3], vit[3]))
    to_vit, to_cnn = module.apply(variables, cnn, vit)["to_peer"]
    assert cases.difference(to_vit, ref.resize(ref.linear(c, p["p4c"]), (2, 2))) < 1e-6
    assert cases.difference(to_cnn, ref.resize(ref.linear(v, p["p4v"]), (4, 3))) < 1e-6


@pytest.mark.parametrize("masked", [True, False])
def test_what_is_masked_is_completed_from_the_rest(masked):
    module, variables, cnn, vit = bridges("mgd")
    p, (c, v) = cases.wide(variables["params"]), cases.wide((cnn[3], vit[3]))
    rng = np.random.default_rng(0)
    keep = [rng.random((2, *grid, 1)) < (0.5 if masked else 1) for grid in ((2, 2), (4, 3))]
    made = module.apply(variables, cnn, vit, keep if masked else None)["mgd"]

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
        (("to_peer",), {"p4c", "p4v"}),
        (("mgd",), {"a4c", "a4v", "generator_c", "generator_v"}),
    ],
)
def test_only_what_is_needed_is_built(kinds, built):
    module, _, cnn, vit = bridges(*kinds)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), cnn, vit))["params"]
    assert set(params) == built
    # no bias before a borrowed BatchNorm stage (docs/method.md)
    projections = {k for k in built if "generator" not in k}
    assert {k for k in projections if "bias" not in params[k]} == built & {"g1v"}


@pytest.mark.parametrize(
    ("dtype", "common"), [(jnp.bfloat16, jnp.float32), (jnp.float64, jnp.float64)]
)
def test_only_common_is_float32_or_wider(dtype, common):
    with jax.enable_x64(True):
        _, variables, cnn, vit = bridges(*KINDS)
        module = Bridges(CNN, VIT, KINDS, common_channels=11, dtype=dtype)
        crossed = jax.eval_shape(module.apply, variables, cnn, vit)
    for kind, sides in crossed.items():
        assert {x.dtype for x in sides} == {jnp.dtype(common if kind == "common" else dtype)}
