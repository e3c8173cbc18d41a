"""Strips of an enlarged map: the values and gradients of the whole map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import ops

from . import reference


def squares(maps, arrays, _):
    """Per pixel: the sum over channels of weight times the enlarged map squared."""
    return {"sum": (arrays["w"][..., None] * maps["x"] ** 2).sum(-1)}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(20, 12), (19, 11), (5, 3), (4, 7)])  # exact, odd, same, smaller
@pytest.mark.parametrize("rows", [0, 1, 3, 8, 64])
def test_values_and_gradients_are_those_of_the_definition(rows, size, aligned):
    rng = np.random.default_rng(rows)
    x, w = rng.normal(size=(2, 5, 3, 2)), rng.normal(size=(2, *size))
    # Enlarging is linear: the columns of its matrix are the enlarged unit maps.
    units = np.eye(15).reshape(15, 5, 3, 1)
    matrix = reference.resize(units, size, aligned).reshape(15, -1).T
    enlarged = np.einsum("oi,bic->boc", matrix, x.reshape(2, 15, 2))
    want = (w.reshape(2, -1)[..., None] * enlarged**2).sum(-1).reshape(w.shape)
    back = np.einsum("oi,boc->bic", matrix, 2 * w.reshape(2, -1)[..., None] * enlarged)

    @jax.jit
    def run(x, w):
        def total(x):
            made = ops.over_rows(squares, {"x": (x, aligned)}, {"w": w}, size=size, rows=rows)
            return made["sum"].sum(), made["sum"]

        return jax.value_and_grad(total, has_aux=True)(x)

    (_, values), gradient = run(jnp.float32(x), jnp.float32(w))
    np.testing.assert_allclose(values, want, atol=2e-6 * np.abs(want).max())
    np.testing.assert_allclose(
        gradient, back.reshape(x.shape), atol=2e-6 * max(1, np.abs(back).max())
    )


def test_strips_are_numbered():
    made = ops.over_rows(
        lambda maps, _, strip: jnp.zeros(maps["x"].shape[:3], jnp.int32) + strip,
        {"x": (jnp.ones((1, 3, 2, 1)), False)},
        {},
        size=(7, 4),
        rows=3,
    )
    np.testing.assert_array_equal(made[0, :, 0], [0, 0, 0, 1, 1, 1, 2])
