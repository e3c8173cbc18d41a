"""Norms and random layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import ops
from collabseg_jax.models.layers import BatchNorm, Conv, DepthwiseConv, drop_path, dropout
from collabseg_jax.models.mix_transformer import Block
from tests.models import cases
from tests.models import reference as ref

NORM = BatchNorm()


def norm_inputs():
    x = cases.noise(3, 4, 5, 6) * np.array([1e-3, 0.1, 1, 1, 5, 20], np.float32)
    x += np.array([0, 0.1, 1, -3, 4, 0], np.float32)
    return x, cases.module_variables(NORM, x, batch_stats=False)


def test_running_statistics():
    x, variables = norm_inputs()
    got = NORM.apply(variables, x, batch_stats=False)
    p, s = (cases.wide(variables[k]) for k in ("params", "batch_stats"))
    assert cases.difference(got, ref.batch_norm(cases.wide(x), **p, **s)) < 1e-6


@pytest.mark.parametrize("mutable", [[], ["batch_stats"]])
def test_batch_statistics(mutable):
    x, variables = norm_inputs()
    got, updates = NORM.apply(variables, x, batch_stats=True, mutable=mutable)
    wide = cases.wide(x)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    expected = ref.batch_norm(wide, **cases.wide(variables["params"]), mean=mean, var=var)
    for c in range(6):  # the small channels count as much as the large ones
        assert cases.difference(got[..., c], expected[..., c]) < 1e-4
    if not mutable:
        assert not updates
        return
    old, new = (cases.wide(v["batch_stats"]) for v in (variables, updates))
    unbiased = wide.reshape(-1, 6).var(0, ddof=1)
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * unbiased, rtol=1e-5)


def test_running_statistics_stay_in_evaluation():
    x, variables = norm_inputs()
    _, updates = NORM.apply(variables, x, batch_stats=False, mutable=["batch_stats"])
    np.testing.assert_array_equal(
        updates["batch_stats"]["var"], variables["batch_stats"]["var"], strict=True
    )
    np.testing.assert_array_equal(updates["batch_stats"]["mean"], variables["batch_stats"]["mean"])


def test_initialisation_does_not_move_the_running_statistics():
    stats = NORM.init(jax.random.key(0), norm_inputs()[0] + 7, batch_stats=True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(6))
    np.testing.assert_array_equal(stats["var"], np.ones(6))


def test_one_value_a_channel():
    """As in ASPP's pooling of a single image: no variance to estimate, and nothing infinite."""
    x, variables = norm_inputs()
    got, updates = NORM.apply(variables, x[:1, :1, :1], batch_stats=True, mutable=["batch_stats"])
    bias = np.broadcast_to(variables["params"]["bias"], got.shape)
    np.testing.assert_allclose(got, bias, atol=1e-4)
    old, new = (v["batch_stats"]["var"] for v in (variables, updates))
    np.testing.assert_allclose(new, 0.9 * old, rtol=1e-5)


def test_bfloat16_keeps_statistics_in_float32():
    x, variables = norm_inputs()
    x = jnp.asarray(x, jnp.bfloat16)
    norm = BatchNorm(dtype=jnp.bfloat16)
    got, updates = norm.apply(variables, x, batch_stats=True, mutable=["batch_stats"])
    assert got.dtype == jnp.bfloat16
    exact = cases.wide(x.astype(jnp.float32)).mean((0, 1, 2))
    expected = 0.9 * variables["batch_stats"]["mean"] + 0.1 * exact
    assert updates["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updates["batch_stats"]["mean"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("formulation", ["cpu", "plain"])
@pytest.mark.parametrize("layer", [Conv(3, use_bias=True), DepthwiseConv(use_bias=True)])
def test_a_bias_has_its_whole_gradient_under_bfloat16(layer, formulation):
    """For the sum of the output it is the number of positions; bfloat16 counts only to 256."""
    layer = layer.clone(dtype=jnp.bfloat16)
    x = jnp.zeros((4, 64, 64, 3), jnp.bfloat16)
    variables = cases.module_variables(layer, x)
    with ops.using(formulation):
        total = jax.jit(jax.grad(lambda v: layer.apply(v, x).astype(jnp.float32).sum()))
        gradient = total(variables)["params"]["bias"]
    np.testing.assert_array_equal(gradient, [4 * 64 * 64] * 3)


CHANNELS, ELEMENTS = (functools.partial(dropout, kind=kind) for kind in ("channel", "element"))


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize(
    ("drop", "shape", "together"),
    [
        (drop_path, (4000, 2, 2, 3), (1, 2, 3)),
        (CHANNELS, (100, 2, 2, 40), (1, 2)),
        (ELEMENTS, (100, 2, 2, 10), ()),
    ],
)
def test_dropping(drop, shape, together, rate):
    got = np.asarray(drop(jnp.full(shape, 2.0), rate, jax.random.key(0)))
    assert got.shape == shape
    kept = got != 0
    np.testing.assert_allclose(got[kept], 2 / (1 - rate), rtol=1e-6)
    # whole samples, whole channels, or each for itself
    assert (kept.all(together) == kept.any(together)).all()
    decided = kept.any(together)
    # four standard deviations of the mean of 4000 draws
    assert abs(decided.mean() - (1 - rate)) < 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert not (decided == decided[:1]).all()
    if drop is CHANNELS:
        assert decided.any(1).all()
    if drop is not drop_path:
        assert not (decided == decided[:, :1]).all()


@pytest.mark.parametrize("drop", [drop_path, CHANNELS, ELEMENTS])
def test_dropping_keeps_the_type(drop):
    got = drop(jnp.ones((2, 1, 1, 4), jnp.bfloat16), 0.3, jax.random.key(0))
    assert got.dtype == jnp.bfloat16


def test_a_dropped_block_is_the_identity():
    """With both branches of a sample dropped, its features pass unchanged; without, they do not."""
    block = Block(heads=1, reduction=1, drop_path=0.5, eps=1e-6)
    x = cases.noise(1, 3, 3, 4).repeat(24, 0)
    variables = cases.module_variables(block, x, drop=False)
    apply = jax.jit(block.apply, static_argnames="drop")
    still = np.asarray(apply(variables, x, drop=False))
    moving = np.asarray(apply(variables, x, drop=True, rngs={"dropout": jax.random.key(1)}))
    assert not np.isclose(still, x).all((1, 2, 3)).any()
    same = (moving == x).all((1, 2, 3))
    # each branch alone, both, or none: four outcomes in 24 samples
    assert same.any()
    assert len(np.unique(moving.round(4), axis=0)) == 4
