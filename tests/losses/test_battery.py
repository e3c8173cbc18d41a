"""The same hard questions to every loss in objective.TERMS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import losses
from collabseg_jax.objective import TERMS

from . import reference
from .cases import CASES


def expand(*, masked=False, draws=True):
    """(name, options) of every case; with the random selection where no reference is needed."""
    out = []
    for name, case in CASES.items():
        if masked and case.hidden is None:
            continue
        random = ({"select": "random"},) if draws and "bsd" in name else ()
        for options in (*case.options, *random):
            label = "-".join([name, *map(str, options.values())])
            out.append(pytest.param(name, options, id=label))
    return pytest.mark.parametrize("name, options", out)


def call(name, arrays, options, **more):
    keywords = CASES[name].keywords(arrays, options)
    return TERMS[name].fn(*arrays.values(), **{**keywords, **more})


def gradient(name, arrays, options, wrt, **more):
    def loss(x):
        return call(name, {**arrays, wrt: x}, options, **more)

    return np.asarray(jax.grad(loss)(jnp.asarray(arrays[wrt])))


def floats(arrays):
    return [k for k, v in arrays.items() if v.dtype != bool]


def test_every_loss_has_a_case():
    assert set(CASES) == set(TERMS)


@pytest.mark.parametrize("name", CASES)
def test_table_names_the_public_function(name):
    assert TERMS[name].fn is getattr(losses, name)


@pytest.mark.parametrize("seed", [0, 1])
@expand(draws=False)
def test_reference(name, options, seed):
    arrays = CASES[name].make(seed)
    expected = CASES[name].expected(arrays, options)
    assert expected > 1e-3  # something was selected and differs
    value = call(name, arrays, options)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@expand()
def test_equal_inputs_give_zero(name, options):
    case, arrays = CASES[name], CASES[name].make(2)
    arrays[case.twin] = arrays[case.learner]
    value, g = jax.value_and_grad(lambda x: call(name, {**arrays, case.learner: x}, options))(
        arrays[case.learner]
    )
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(g, 0.0, atol=1e-6)


@expand()
def test_only_the_learner_gets_a_gradient(name, options):
    case, arrays = CASES[name], CASES[name].make(3)
    for wrt in floats(arrays):
        g = gradient(name, arrays, options, wrt)
        assert np.isfinite(g).all()
        assert (np.abs(g).max() > 1e-4) if wrt == case.learner else not g.any(), wrt


@expand(draws=False)
def test_gradient_is_that_of_the_reference(name, options):
    case, arrays = CASES[name], CASES[name].make(4)
    expected = reference.finite_difference(
        lambda x: case.expected({**arrays, case.learner: x}, options), arrays[case.learner]
    )
    scale = np.abs(expected).max()
    assert scale > 1e-3
    g = gradient(name, arrays, options, case.learner)
    np.testing.assert_allclose(g, expected, rtol=1e-4, atol=1e-5 * scale)


def poisoned(name, arrays, poison):
    out = dict(arrays)
    for key, places in CASES[name].hidden(arrays).items():
        assert places.any()
        out[key] = out[key].copy()
        out[key][places] = poison
    return out


@pytest.mark.parametrize("poison", [1e6, np.nan])
@expand(masked=True)
def test_ignored_pixels_change_nothing(name, options, poison):
    case, arrays = CASES[name], CASES[name].make(5)
    dirty = poisoned(name, arrays, poison)
    more = {}
    correct = case.keywords(arrays, options).get("teacher_correct")
    if correct is not None:
        more = {"teacher_correct": correct ^ ~arrays["valid"]}
    clean_value = call(name, arrays, options)
    assert clean_value > 0
    np.testing.assert_allclose(call(name, dirty, options, **more), clean_value, rtol=1e-6)
    clean = gradient(name, arrays, options, case.learner)
    g = gradient(name, dirty, options, case.learner, **more)
    np.testing.assert_allclose(g, clean, rtol=1e-6, atol=1e-8)
    assert not g[case.hidden(arrays)[case.learner]].any()
    assert not gradient(name, dirty, options, case.twin, **more).any()


@pytest.mark.parametrize("poison", [0.0, np.nan])
@expand(masked=True)
def test_everything_ignored(name, options, poison):
    case, arrays = CASES[name], CASES[name].make(6)
    arrays["valid"] = np.zeros_like(arrays["valid"])
    if poison:
        arrays = poisoned(name, arrays, poison)
    assert call(name, arrays, options) == 0
    assert not gradient(name, arrays, options, case.learner).any()  # NaN would count as any


@expand()
def test_bfloat16_is_computed_in_float32(name, options):
    case, arrays = CASES[name], CASES[name].make(7)
    half = dict(arrays)
    for key in (case.learner, case.twin):
        half[key] = jnp.asarray(arrays[key], jnp.bfloat16)
        arrays[key] = np.asarray(half[key].astype(jnp.float32))  # the same numbers, wider
    value = call(name, half, options)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, call(name, arrays, options), rtol=1e-6)


@expand()
def test_jit_equals_eager(name, options):
    case, arrays = CASES[name], CASES[name].make(8)
    traced = case.extra(arrays, options) if case.extra else {}  # rng and teacher_correct too
    eager = TERMS[name].fn(*arrays.values(), **options, **traced)
    jitted = jax.jit(lambda args, kw: TERMS[name].fn(*args, **options, **kw))
    np.testing.assert_allclose(jitted(list(arrays.values()), traced), eager, rtol=2e-6)


@expand(draws=False)
def test_order_of_the_batch_does_not_matter(name, options):
    case, arrays = CASES[name], CASES[name].make(9)
    keywords = case.keywords(arrays, options)
    flipped = {k: v[::-1] if k == "teacher_correct" else v for k, v in keywords.items()}
    value = TERMS[name].fn(*(v[::-1] for v in arrays.values()), **flipped)
    np.testing.assert_allclose(value, TERMS[name].fn(*arrays.values(), **keywords), rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.per_pixel])
def test_order_of_the_positions_does_not_matter(name):
    arrays = CASES[name].make(10)
    n = arrays["valid"].size
    order = np.random.default_rng(0).permutation(n)
    moved = {k: v.reshape(n, -1)[order].reshape(v.shape) for k, v in arrays.items()}
    np.testing.assert_allclose(call(name, moved, {}), call(name, arrays, {}), rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.per_pixel])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_padding_does_not_matter(name, fill):
    arrays = CASES[name].make(11)
    padded = {}
    for key, value in arrays.items():
        width = [(0, 0), (0, 3), (0, 2)] + [(0, 0)] * (value.ndim - 3)
        padded[key] = np.pad(value, width, constant_values=False if key == "valid" else fill)
    np.testing.assert_allclose(call(name, padded, {}), call(name, arrays, {}), rtol=1e-6)
    g = gradient(name, padded, {}, "student")
    np.testing.assert_allclose(
        g[:, :-3, :-2], gradient(name, arrays, {}, "student"), rtol=1e-6, atol=1e-8
    )
