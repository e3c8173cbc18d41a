"""cross_entropy, masked_mean and cell_mean: by hand and against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import losses

from . import reference


def test_cross_entropy_by_hand():
    # softmax(ln 3, 0) = (3/4, 1/4): label 0 costs ln(4/3), label 1 costs ln 4, 255 costs nothing.
    logits = np.broadcast_to(np.float32([np.log(3), 0]), (1, 1, 3, 2))
    ce, valid = losses.cross_entropy(logits, np.int32([[[0, 1, 255]]]))
    np.testing.assert_allclose(ce, [[[np.log(4 / 3), np.log(4), 0]]], rtol=1e-6)
    np.testing.assert_array_equal(valid, [[[True, True, False]]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("classes", [3, 200])  # 200: a uint8 label must not wrap at 127
def test_cross_entropy_reference(dtype, classes):
    rng = np.random.default_rng(classes)
    logits = 3 * rng.normal(size=(2, 5, 3, classes)).astype(np.float32)
    labels = rng.integers(0, classes, (2, 5, 3)).astype(dtype)
    labels[0, 0, 0], labels[0, 1], labels[1, :, 2] = classes - 1, 255, 255
    ce, valid = losses.cross_entropy(logits, labels)
    expected, expected_valid = reference.cross_entropy(logits, labels)
    assert ce.dtype == jnp.float32 and valid.dtype == bool
    np.testing.assert_allclose(ce, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(valid, expected_valid)
    assert not np.asarray(ce)[~expected_valid].any()
    jitted, _ = jax.jit(losses.cross_entropy)(logits, labels)
    np.testing.assert_allclose(jitted, ce, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("ignore", [0, -1])
def test_cross_entropy_other_ignore_label(ignore):
    logits = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    labels = np.int32([[[ignore, 1, 2], [3, ignore, 1]]])
    ce, valid = losses.cross_entropy(logits, labels, ignore_label=ignore)
    expected, expected_valid = reference.cross_entropy(logits, labels, ignore_label=ignore)
    np.testing.assert_allclose(ce, expected, rtol=1e-5)
    np.testing.assert_array_equal(valid, expected_valid)


def test_cross_entropy_is_stable_and_wide():
    logits = np.float32([[[[1e4, -1e4], [-1e4, 1e4]]]])
    ce, _ = losses.cross_entropy(logits, np.int32([[[0, 0]]]))
    np.testing.assert_allclose(ce, [[[0, 2e4]]], rtol=1e-6)
    half = jnp.asarray([[[[1.0, 0.5, 3.0]]]], jnp.bfloat16)
    wide, _ = losses.cross_entropy(half, np.int32([[[1]]]))
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, reference.cross_entropy(half, [[[1]]])[0], rtol=1e-6)


@pytest.mark.parametrize("poison", [1e6, np.nan, np.inf])
def test_cross_entropy_ignored_pixels(poison):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    labels = np.uint8([[[0, 255, 2], [255, 1, 3]]])

    def loss(x):
        return losses.masked_mean(*losses.cross_entropy(x, labels))

    dirty = np.where((labels == 255)[..., None], poison, logits).astype(np.float32)
    np.testing.assert_allclose(loss(dirty), loss(logits), rtol=1e-6)
    g = np.asarray(jax.grad(loss)(dirty))
    assert not g[labels == 255].any()
    expected = reference.finite_difference(
        lambda x: reference.masked_mean(*reference.cross_entropy(x, labels)), logits
    )
    np.testing.assert_allclose(g, expected, rtol=1e-4, atol=1e-6)
    labels = np.full_like(labels, 255)
    assert loss(dirty) == 0 and not np.asarray(jax.grad(loss)(dirty)).any()


def test_masked_mean_by_hand():
    values = np.float32([[1, 2], [6, np.nan]])
    where = np.array([[True, False], [True, False]])
    np.testing.assert_allclose(losses.masked_mean(values, where), (1 + 6) / 2)
    np.testing.assert_array_equal(jax.grad(losses.masked_mean)(values, where), [[0.5, 0], [0.5, 0]])
    nowhere = np.zeros((2, 2), bool)
    assert losses.masked_mean(values, nowhere) == 0
    assert not np.asarray(jax.grad(losses.masked_mean)(values, nowhere)).any()
    one = np.array([[False, True], [False, False]])  # the count is exact, not clipped to 2 or 4
    assert losses.masked_mean(values, one) == 2


def test_masked_mean_of_bfloat16_adds_in_float32():
    values = jnp.ones((64, 64), jnp.bfloat16)  # bfloat16 counts only to 256
    value = losses.masked_mean(values.at[0, 0].set(3), jnp.ones((64, 64), bool))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 1 + 2 / 4096, rtol=1e-6)


def test_float64_stays_float64():
    rng = np.random.default_rng(3)
    logits, where = rng.normal(size=(2, 5, 3, 4)), rng.random((2, 5, 3)) < 0.7
    labels = rng.integers(0, 4, where.shape)
    weights = rng.random(where.shape)
    expected_ce, _ = reference.cross_entropy(logits, labels)
    with jax.enable_x64(True):
        ce, _ = losses.cross_entropy(jnp.asarray(logits), labels)
        mean = losses.masked_mean(ce, where)
        weighted = losses.weighted_mean(ce, jnp.asarray(weights), where)
        cells, _ = losses.cell_mean(ce, where, (2, 2))
    weights = weights[where]
    for value, expected in (
        (ce, expected_ce),
        (mean, expected_ce[where].mean()),
        (weighted, (weights * expected_ce[where]).sum() / weights.sum()),
        (cells, reference.cell_mean(expected_ce, where, (2, 2))[0]),
    ):
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_weighted_mean_by_hand():
    values = np.float32([[1, 2], [6, np.nan]])
    weights = np.float32([[3, 7], [0.5, np.nan]])
    where = np.array([[True, False], [True, False]])
    expected = (3 * 1 + 0.5 * 6) / (3 + 0.5)  # torch: sum of w_y * loss over sum of w_y
    np.testing.assert_allclose(losses.weighted_mean(values, weights, where), expected, rtol=1e-6)
    g = jax.grad(losses.weighted_mean)(values, weights, where)
    np.testing.assert_allclose(g, [[3 / 3.5, 0], [0.5 / 3.5, 0]], rtol=1e-6)
    for nothing in (np.zeros_like(where), where & (weights < 0)):
        assert losses.weighted_mean(values, weights, nothing) == 0
    assert losses.weighted_mean(values, 0 * np.ones_like(weights), where) == 0
    g = jax.grad(losses.weighted_mean)(values, 0 * np.ones_like(weights), where)
    assert not np.asarray(g).any()
    with pytest.raises(ValueError, match="differ in shape"):
        losses.weighted_mean(values, weights[0], where)


def test_cell_mean_by_hand():
    # 5 rows to 2: floor(2y/5) = 0 0 0 1 1.  3 columns to 2: floor(2x/3) = 0 0 1.
    values = np.arange(15, dtype=np.float32).reshape(1, 5, 3)
    where = np.ones((1, 5, 3), bool)
    mean, has = losses.cell_mean(values, where, (2, 2))
    # (0+1+3+4+6+7)/6 = 3.5, (2+5+8)/3 = 5, (9+10+12+13)/4 = 11, (11+14)/2 = 12.5
    np.testing.assert_allclose(mean, [[[3.5, 5], [11, 12.5]]], rtol=1e-6)
    assert np.asarray(has).all() and has.dtype == bool
    where[0, :3, 2], where[0, 0, 0] = False, False
    mean, has = losses.cell_mean(np.where(where, values, np.nan), where, (2, 2))
    np.testing.assert_allclose(mean, [[[21 / 5, 0], [11, 12.5]]], rtol=1e-6)
    np.testing.assert_array_equal(has, [[[True, False], [True, True]]])


@pytest.mark.parametrize(
    "size, grid",
    [((7, 9), (3, 4)), ((8, 6), (4, 3)), ((5, 5), (5, 5)), ((65, 3), (33, 2)), ((2, 3), (3, 5))],
)
def test_cell_mean_reference(size, grid):
    rng = np.random.default_rng(2)
    values = rng.normal(size=(2, *size)).astype(np.float32)
    where = rng.random((2, *size)) < 0.4
    where[0, 0] = False
    mean, has = losses.cell_mean(values, where, grid)
    expected, expected_has = reference.cell_mean(values, where, grid)
    assert mean.shape == (2, *grid) and not expected_has.all()
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(has, expected_has)
