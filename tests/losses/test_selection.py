"""Who teaches where: by hand, ties, normalisers, the random control, and errors."""

import jax
import numpy as np
import pytest

from collabseg_jax import losses

from . import reference
from .cases import DIVERGENCES, pixel_inputs, region_inputs

ALL_SELECTS = ("lower_ce", "lower_ce_correct", "all", "higher_ce", "random")

HALF = np.log(2.0)  # KL((1,0) || (1/2,1/2))


def certain_teacher(sure):
    """Student always (1/2, 1/2); where `sure` the teacher is (1, 0), elsewhere it agrees."""
    sure = np.asarray(sure, bool)[..., None]
    teacher = np.where(sure, np.float32([200, 0]), np.float32([0, 0]))
    return np.zeros_like(teacher), teacher


CE_STUDENT = np.float32([[[2, 2, 2, 2, 2]]])
CE_TEACHER = np.float32([[[1, 1, 3, 2, 0]]])  # lower, lower, higher, tie, ignored
VALID = np.array([[[True, True, True, True, False]]])
CORRECT = np.array([[[False, True, True, True, True]]])


@pytest.mark.parametrize(
    "select, sure, expected",
    [
        ("lower_ce", [1, 0, 1, 1, 1], HALF / 2),  # pixels 0, 1; distance at 0 only
        ("lower_ce_correct", [1, 0, 1, 1, 1], 0.0),  # pixel 1 only
        ("lower_ce_correct", [0, 1, 0, 0, 0], HALF),
        ("higher_ce", [1, 1, 0, 1, 1], 0.0),  # pixel 2 only
        ("higher_ce", [0, 0, 1, 0, 0], HALF),
        ("all", [0, 0, 0, 1, 1], HALF / 4),  # pixels 0..3, the tie too
    ],
)
def test_bsd_pixel_by_hand(select, sure, expected):
    student, teacher = certain_teacher([[sure]])
    value = losses.bsd_pixel(
        student, teacher, CE_STUDENT, CE_TEACHER, VALID, select=select, teacher_correct=CORRECT
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)


def test_dml_by_hand():
    student, teacher = certain_teacher([[[1, 0, 0, 1, 1]]])
    np.testing.assert_allclose(losses.dml(student, teacher, VALID), 2 * HALF / 4, rtol=1e-6)
    # T = 2 keeps the teacher certain (100 against 0) and multiplies by 4
    value = losses.dml(student, teacher, VALID, temperature=2.0)
    np.testing.assert_allclose(value, 4 * 2 * HALF / 4, rtol=1e-6)


def region_by_hand():
    """A 2x2 grid over 4x4 pixels; mse at cells: [[1, 4], [9, 16]]."""
    student = np.zeros((1, 2, 2, 1), np.float32)
    teacher = np.float32([[[[1], [2]], [[3], [4]]]])
    student_ce = np.ones((1, 4, 4), np.float32)
    # One pixel of cell (0,0) is very bad, the mean says 'student': (9 + 0 + 0 + 0)/4 > 1,
    # though the teacher is better at three of its four pixels.
    teacher_ce = np.float32([[[9, 0, 0, 1], [0, 0, 1, 1], [1, 1, 9, 0], [1, 1, 9, 0]]])
    # Cell (0,1): 3/4 < 1 teacher.  Cell (1,0): tie.
    # Cell (1,1): 18/4 > 1, but its two 9s are ignored below: 0 < 1 teacher.
    valid = np.ones((1, 4, 4), bool)
    valid[0, 2:, 2] = False
    return student, teacher, student_ce, teacher_ce, valid


def test_bsd_region_by_hand():
    arrays = region_by_hand()
    for select, expected in (
        ("lower_ce", (4 + 16) / 2),
        ("higher_ce", 1.0),
        ("all", (1 + 4 + 9 + 16) / 4),
    ):
        value = losses.bsd_region(*arrays, divergence="mse", select=select)
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "correct_pixels, expected",
    [
        # cell (1,1) has two valid pixels, column 3; cell (0,1) has four
        ([], 0.0),
        ([(0, 2), (0, 3)], 0.0),  # exactly half of cell (0,1)
        ([(0, 2), (0, 3), (1, 3)], 4.0),  # more than half of it
        ([(2, 3), (2, 2), (3, 2)], 0.0),  # half of cell (1,1): its ignored pixels do not count
        ([(2, 3), (3, 3)], 16.0),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 0.0),  # right, but the student is better there
    ],
)
def test_region_of_a_correct_teacher(correct_pixels, expected):
    correct = np.zeros((1, 4, 4), bool)
    for pixel in correct_pixels:
        correct[(0, *pixel)] = True
    value = losses.bsd_region(
        *region_by_hand(), divergence="mse", select="lower_ce_correct", teacher_correct=correct
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_each_direction_is_divided_by_its_own_count():
    # 4 cells = 4 pixels at mse 4 everywhere; the teacher has 1 of them, the student 3.
    shape = (2, 1, 2)
    student, teacher = np.zeros((*shape, 3), np.float32), np.full((*shape, 3), 2, np.float32)
    ours, theirs = np.ones(shape, np.float32), np.full(shape, 2, np.float32)
    theirs[0, 0, 0] = 0
    valid = np.ones(shape, bool)
    teacher[0, 0, 0] = 3  # mse 9 in the one cell: 9, and 4 + 4 + 4 over 3 the other way
    to_student = losses.bsd_region(student, teacher, ours, theirs, valid, divergence="mse")
    to_teacher = losses.bsd_region(teacher, student, theirs, ours, valid, divergence="mse")
    np.testing.assert_allclose([to_student, to_teacher], [9, 4], rtol=1e-6)
    # The same in pixels: distance ln 2 everywhere, so either count but its own would show.
    flat, sure = certain_teacher(np.ones(shape))
    np.testing.assert_allclose(losses.bsd_pixel(flat, sure, ours, theirs, valid), HALF, rtol=1e-6)
    np.testing.assert_allclose(losses.bsd_pixel(flat, sure, theirs, ours, valid), HALF, rtol=1e-6)


@pytest.mark.parametrize("select", ["lower_ce", "higher_ce"])
def test_ties_teach_nobody(select):
    pixel, region = pixel_inputs(0), region_inputs(0)
    for fn, arrays in ((losses.bsd_pixel, pixel), (losses.bsd_region, region)):
        arrays["teacher_ce"] = arrays["student_ce"]
        assert fn(**arrays, select=select) == 0
        assert fn(**arrays, select="all") > 0


def test_the_two_directions_and_the_ties_are_everything():
    arrays = region_inputs(1)
    has_valid = reference.cell_mean(arrays["student_ce"], arrays["valid"], (3, 4))[1]
    marks = np.zeros((2, 3, 4))
    for select in ("lower_ce", "higher_ce"):
        g = jax.grad(
            lambda s, select=select: losses.bsd_region(
                **{**arrays, "student": s}, select=select, divergence="mse"
            )
        )(arrays["student"])
        marks += np.abs(np.asarray(g)).max(axis=-1) > 0
    has_valid[0, 0, 0] = False  # the tie built into the inputs
    np.testing.assert_array_equal(marks, has_valid)


@pytest.mark.parametrize("kind", ["pixel", "region"])
def test_random_takes_half_of_the_valid_places(kind):
    shape, n = (2, 8, 8), 96
    valid = np.ones(shape, bool)
    valid[0, :4] = False
    sure = np.zeros(shape, bool)
    sure[1, 2, 3] = True  # the only place with a distance: loss = distance / count if drawn
    student, teacher = certain_teacher(sure)
    ce = np.random.default_rng(0).random(shape).astype(np.float32)
    better = ce - 1  # if the draw looked at the cross-entropy, all would go one way
    fn = {"pixel": losses.bsd_pixel, "region": losses.bsd_region}[kind]
    options = {} if kind == "pixel" else {"divergence": "kl"}
    draw = jax.jit(
        lambda key: fn(student, teacher, ce, better, valid, select="random", rng=key, **options)
    )
    values = np.array([draw(jax.random.key(i)) for i in range(200)])
    drawn = values > 0
    assert 60 < drawn.sum() < 140  # 100 +- 5.7 standard deviations
    counts = HALF / values[drawn]
    np.testing.assert_allclose(counts, np.round(counts), rtol=1e-4)  # divided by what was drawn
    assert (np.abs(counts - n / 2) <= 4.5 * np.sqrt(n) / 2).all()
    assert abs(counts.mean() - n / 2) < 2.5
    assert draw(jax.random.key(3)) == draw(jax.random.key(3))


@pytest.mark.parametrize("fn, make", [("bsd_pixel", pixel_inputs), ("bsd_region", region_inputs)])
def test_errors_of_select(fn, make):
    fn, arrays = getattr(losses, fn), make(0)
    with pytest.raises(ValueError, match="lower_cee") as error:
        fn(**arrays, select="lower_cee")
    assert all(name in str(error.value) for name in ALL_SELECTS)
    with pytest.raises(ValueError, match="rng"):
        fn(**arrays, select="random")
    with pytest.raises(ValueError, match="teacher_correct"):
        fn(**arrays, select="lower_ce_correct")


def test_errors_of_divergence():
    x = np.zeros((1, 2, 2, 3), np.float32)
    with pytest.raises(ValueError, match="cosin\\b") as error:
        losses.hfd(x, x, divergence="cosin")
    assert all(name in str(error.value) for name in DIVERGENCES)
    with pytest.raises(ValueError, match="cosin\\b") as error:
        losses.bsd_region(**region_inputs(0), divergence="cosin")
    assert all(name in str(error.value) for name in DIVERGENCES)
