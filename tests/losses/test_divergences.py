"""The unreduced divergences: by hand, against float64, at their numerical edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import losses

from . import reference
from .cases import DIVERGENCES

LN3 = np.log(3.0)
R2 = np.sqrt(2.0)
# sigmoid(2/sqrt 2): teacher standardised to (1, -1)/sqrt 2 because eps 1e-6 equals its variance
P = 1 / (1 + np.exp(-R2))

BY_HAND = [
    # teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 (the reverse is 0.1438)
    ("kl", {}, [0, 0], [LN3, 0], 0.75 * np.log(1.5) + 0.25 * np.log(0.5)),
    ("kl", {}, [LN3, 0], [0, 0], 0.5 * np.log(2 / 3) + 0.5 * np.log(2)),
    # logits twice as large at T = 2: the same distributions, times T^2 = 4
    (
        "kl",
        {"temperature": 2.0},
        [0, 0],
        [2 * LN3, 0],
        4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)),
    ),
    # a certain teacher: 1 ln(1 / (1/2)), the vanished class adds nothing
    ("kl", {}, [5, 5], [1000, 0], np.log(2)),
    ("kl", {}, [0, 1000], [1000, 0], 1000.0),
    # (1,3) -> (-1,1), (5,1) -> (1,-1): 2 (p1 - p2) = 2 tanh 1
    ("kl_ln", {}, [1, 3], [5, 1], 2 * np.tanh(1.0)),
    # biased variance: (1,2,3)/sqrt(2/3) against a constant teacher (uniform)
    (
        "kl_ln",
        {},
        [1, 2, 3],
        [7, 7, 7],
        np.log((np.exp(np.sqrt(1.5)) + 1 + np.exp(-np.sqrt(1.5))) / 3),
    ),
    ("kl_ln", {}, [4, 4], [1e-3, -1e-3], np.log(2) + P * np.log(P) + (1 - P) * np.log(1 - P)),
    ("mse", {}, [1, 2, 3], [0, 0, 1], (1 + 4 + 4) / 3),
    ("cosine", {}, [3, 4], [4, 3], 1 - 24 / 25),
    ("cosine", {}, [3, 4], [-6, -8], 2.0),
    ("cosine", {}, [0, 5], [7, 0], 1.0),
    ("cosine", {}, [0, 0], [1, 2], 1.0),
    # |x|^2 = 1e-12 = eps, so its norm is sqrt(2) 1e-6
    ("cosine", {}, [1e-6, 0], [1, 0], 1 - 1 / R2),
]


@pytest.mark.parametrize("name, options, student, teacher, expected", BY_HAND)
def test_by_hand(name, options, student, teacher, expected):
    value = getattr(losses, name)(np.float32(student), np.float32(teacher), **options)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_relational_by_hand():
    # student: orthogonal unit vectors; teacher: (1,0,0) and (3,4,0), cosine 3/5.
    student = np.float32([[[[2, 0], [0, 3]]]])
    teacher = np.float32([[[[1, 0, 0], [3, 4, 0]]]])
    # off the diagonal (0 - 0.6)^2, on it 0: mean over j is 0.18 at both positions
    np.testing.assert_allclose(losses.relational(student, teacher), [[[0.18, 0.18]]], rtol=1e-5)
    alone = losses.relational(student, teacher, valid=np.array([[[True, False]]]))
    np.testing.assert_allclose(alone[0, 0, 0], 0.0, atol=1e-6)  # j runs over itself only


def test_relational_never_looks_at_another_image():
    rng = np.random.default_rng(0)
    s, t = (rng.normal(size=(3, 2, 3, c)).astype(np.float32) for c in (4, 6))
    together = np.asarray(losses.relational(s, t))
    single = [np.asarray(losses.relational(s[b : b + 1], t[b : b + 1]))[0] for b in range(3)]
    np.testing.assert_allclose(together, np.stack(single), rtol=1e-5)


@pytest.mark.parametrize("poison", [1e6, np.nan])
def test_relational_valid(poison):
    rng = np.random.default_rng(1)
    s, t = (rng.normal(size=(3, 2, 3, c)).astype(np.float32) for c in (4, 6))
    valid = rng.random((3, 2, 3)) < 0.6
    valid[0] = False
    expected = reference.relational(s, t, valid=valid)

    def total(s, t):
        value = losses.relational(s, t, valid=valid)
        return jnp.sum(jnp.where(valid, value, 0)), value

    dirty_s, dirty_t = (np.where(valid[..., None], x, np.float32(poison)) for x in (s, t))
    _, value = total(dirty_s, dirty_t)
    assert np.isfinite(value).all()
    np.testing.assert_allclose(np.asarray(value)[valid], expected[valid], rtol=1e-5)
    g_s, g_t = jax.grad(lambda s, t: total(s, t)[0], argnums=(0, 1))(dirty_s, dirty_t)
    fd = reference.finite_difference(
        lambda x: reference.relational(x, t, valid=valid)[valid].sum(), s
    )
    np.testing.assert_allclose(g_s, fd, rtol=1e-4, atol=1e-5 * np.abs(fd).max())
    assert not np.asarray(g_t).any()


@pytest.mark.parametrize(
    "name, options",
    [*((name, {}) for name in DIVERGENCES), *(("kl", {"temperature": t}) for t in (0.5, 4.0))],
)
def test_reference_and_gradient(name, options):
    rng = np.random.default_rng(3)
    student, teacher = (3 * rng.normal(size=(2, 3, 2, 7)).astype(np.float32) for _ in range(2))
    fn, ref = getattr(losses, name), getattr(reference, name)
    value, expected = fn(student, teacher, **options), ref(student, teacher, **options)
    assert value.shape == (2, 3, 2) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)

    # every position carries its own weight, so a reduction inside would show
    weight = rng.normal(size=(2, 3, 2)).astype(np.float32)

    def loss(s, t):
        return jnp.sum(weight * fn(s, t, **options))

    g_student, g_teacher = jax.grad(loss, argnums=(0, 1))(student, teacher)
    fd = reference.finite_difference(lambda s: (weight * ref(s, teacher, **options)).sum(), student)
    np.testing.assert_allclose(g_student, fd, rtol=1e-4, atol=1e-5 * np.abs(fd).max())
    assert not np.asarray(g_teacher).any()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_bfloat16_is_widened_first(name):
    rng = np.random.default_rng(4)
    half = [jnp.asarray(rng.normal(size=(1, 2, 3, 9)), jnp.bfloat16) for _ in range(2)]
    value = getattr(losses, name)(*half)
    assert value.dtype == jnp.float32
    expected = getattr(reference, name)(*half)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_float64_stays_float64(name):
    rng = np.random.default_rng(7)
    student, teacher = rng.normal(size=(2, 1, 2, 3, 9))
    expected = getattr(reference, name)(student, teacher)
    with jax.enable_x64(True):
        value = np.asarray(getattr(losses, name)(jnp.asarray(student), jnp.asarray(teacher)))
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("level", [0.0, 2.0])
def test_degenerate_features_have_finite_gradients(name, level):
    """Constant channels (variance 0) and zero vectors (norm 0)."""
    flat = np.full((1, 2, 2, 4), level, np.float32)
    other = np.random.default_rng(5).normal(size=flat.shape).astype(np.float32)
    fn, ref = getattr(losses, name), getattr(reference, name)
    for student, teacher in ((flat, other), (other, flat), (flat, flat)):
        np.testing.assert_allclose(
            fn(student, teacher), ref(student, teacher), rtol=1e-5, atol=1e-6
        )
        g = jax.grad(lambda s, t: jnp.sum(fn(s, t)))(student, teacher)
        assert np.isfinite(g).all()


@pytest.mark.parametrize("name", ["kl", "kl_ln"])
def test_kl_ignores_a_shift_of_the_logits(name):
    rng = np.random.default_rng(6)
    student, teacher = (rng.normal(size=(8, 5)).astype(np.float32) for _ in range(2))
    fn = getattr(losses, name)
    np.testing.assert_allclose(fn(student + 4, teacher - 2), fn(student, teacher), rtol=1e-4)
    assert (np.asarray(fn(student, teacher)) > 0).all()


@pytest.mark.parametrize("name", ["relational", "cell_mean"])
def test_matrix_products_are_full_float32(name):
    """At default precision an accelerator may round the operands to TF32 or bfloat16."""
    x = np.ones((1, 2, 2, 3), np.float32)
    where = np.ones((1, 2, 2), bool)
    jaxpr = {
        "relational": lambda: jax.make_jaxpr(losses.relational)(x, x),
        "cell_mean": lambda: jax.make_jaxpr(lambda v: losses.cell_mean(v, where, (1, 1)))(x),
    }[name]()
    text = str(jaxpr)
    full = text.count("precision=(Precision.HIGHEST") + text.count("precision=Precision.HIGHEST")
    assert full == text.count("dot_general[")


@pytest.mark.parametrize("name", DIVERGENCES)
def test_shapes_that_differ(name):
    x = jnp.zeros((1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"student \(1, 2, 3, 4\) and teacher .* differ in"):
        getattr(losses, name)(x, jnp.zeros((1, 1, 3, 4)))
    other_channels = jnp.zeros((1, 2, 3, 5))
    if name == "relational":
        assert losses.relational(x, other_channels).shape == (1, 2, 3)
    else:
        with pytest.raises(ValueError, match="differ in shape"):
            getattr(losses, name)(x, other_channels)
