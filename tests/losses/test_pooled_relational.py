"""`relational` on maps larger than 32x32, which are pooled to at most that first."""

import jax
import numpy as np
import pytest

from collabseg_jax import losses

from . import reference
from .cases import normal, region_inputs


@pytest.mark.parametrize("size", [(3, 64), (40, 35), (32, 32)])
def test_hfd_pools(size):
    rng = np.random.default_rng(0)
    borrowed = normal(rng, 2, *size, 4) + 1  # a shared mean: pooling brings it out
    native = normal(rng, 2, *size, 4)
    value = losses.hfd(borrowed, native, divergence="relational")
    expected = reference.hfd(borrowed, native, divergence="relational")
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    unpooled = reference.relational(borrowed, native).mean()
    assert (abs(unpooled - expected) > 1e-3 * expected) == (max(size) > 32)


def test_hfd_pool_by_hand():
    # 64 rows to 32: rows 2k and 2k+1 average. All pooled student vectors are (1/2, 1/2), cosine 1
    # everywhere; the teacher alternates between (1,0) and (0,1) in pairs of rows, cosine 1 or 0:
    # (1 - 0)^2 for half of the j.
    axes = np.eye(2, dtype=np.float32)
    student = axes[np.arange(64) % 2][None, :, None]
    teacher = axes[np.arange(64) // 2 % 2][None, :, None]
    value = losses.hfd(student, teacher, divergence="relational")
    np.testing.assert_allclose(value, 0.5, rtol=1e-5)


def large(image, fine, seed=0):
    """Image 0 loses a third of its rows, so fine and some pooled cells have no valid pixel."""
    arrays = region_inputs(seed, fine=fine, image=image, channels=3)
    arrays["valid"][0, : image[0] // 3] = False
    return arrays


# Rows and columns are either as many pixels as fine cells, or a multiple of both grids: there
# the pixel's pooled cell is the pooled cell of its fine cell.
@pytest.mark.parametrize(
    "image, fine, select",
    [
        ((40, 5), (2, 40, 3), "lower_ce"),
        ((128, 4), (2, 64, 2), "all"),
        ((5, 33), (2, 3, 33), "lower_ce"),
    ],
)
def test_bsd_region_pools(image, fine, select):
    arrays = large(image, fine)
    options = {"divergence": "relational", "select": select}
    expected = reference.bsd_region(**arrays, **options)
    assert expected > 1e-3
    np.testing.assert_allclose(losses.bsd_region(**arrays, **options), expected, rtol=1e-5)


def test_a_pixel_goes_to_the_region_of_its_own_position():
    """70 rows, 35 fine, 32 pooled: floor(y*32/70) differs from going through the fine cell."""
    arrays = region_inputs(1, fine=(1, 35, 1), image=(70, 1), channels=3)
    arrays["valid"][:] = True
    expected = reference.bsd_region(**arrays, divergence="relational")
    value = losses.bsd_region(**arrays, divergence="relational")
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_gradient_through_the_pool():
    arrays = large((33, 2), (2, 33, 2), seed=2)

    def ref(x):
        return reference.bsd_region(**{**arrays, "student": x}, divergence="relational")

    def loss(student, teacher):
        swapped = {**arrays, "student": student, "teacher": teacher}
        return losses.bsd_region(**swapped, divergence="relational")

    fd = reference.finite_difference(ref, arrays["student"])
    g_student, g_teacher = jax.grad(loss, argnums=(0, 1))(arrays["student"], arrays["teacher"])
    np.testing.assert_allclose(g_student, fd, rtol=1e-3, atol=1e-5 * np.abs(fd).max())
    assert not np.asarray(g_teacher).any()


@pytest.mark.parametrize("poison", [1e6, np.nan])
def test_ignored_fine_cells_do_not_enter_the_pool(poison):
    arrays = large((40, 3), (2, 40, 3), seed=3)
    valid = arrays["valid"]  # as many pixels as fine cells: a fine cell is its pixel
    dirty = dict(arrays)
    for key in ("student", "teacher", "student_ce", "teacher_ce"):
        dirty[key] = arrays[key].copy()
        dirty[key][~valid] = poison

    def loss(student, arrays):
        return losses.bsd_region(**{**arrays, "student": student}, divergence="relational")

    value, g = jax.value_and_grad(loss)(arrays["student"], arrays)
    dirty_value, dirty_g = jax.value_and_grad(loss)(dirty["student"], dirty)
    assert value > 0
    np.testing.assert_allclose(dirty_value, value, rtol=1e-6)
    np.testing.assert_allclose(dirty_g, g, rtol=1e-5, atol=1e-8)
    assert not np.asarray(dirty_g)[~valid].any()
