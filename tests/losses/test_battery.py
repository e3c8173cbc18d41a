"""The same hard questions to every loss in the table of terms.

Each case is compiled once (value and the gradient of every float argument) and then asked often.
A loss with two faces, such as `dml` and `dml_map`, has two cases, `dml` and `dml_map`: the second
is what the objective calls, and its mean here is NumPy's.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import losses
from collabseg_jax.collab.terms import TERMS, Choice

from .cases import CASES, FACES

QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs long


def expand(*, masked=False, draws=True, selects=True, adds=False):
    """(name, options) of every case; with the random selection where no reference is needed.

    Without `selects`, a selection other than the default is left out: the arithmetic is the same.
    """
    out = []
    for name, case in CASES.items():
        if (masked and case.hidden is None) or (adds and case.count is None):
            continue
        random = ({"select": "random"},) if draws and "bsd" in name else ()
        for options in (*case.options, *random):
            if "select" in options and not selects:
                continue
            label = "-".join([name, *map(str, options.values())])
            out.append(pytest.param(name, options, id=label))
    return pytest.mark.parametrize("name, options", out)


def floats(arrays):
    return [k for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)]


def direct(name, arrays, keywords):
    result = getattr(losses, name)(*arrays.values(), **keywords)
    if name not in FACES.values():
        return result
    values, where = result
    return jnp.sum(values, where=where) / jnp.maximum(1, jnp.sum(where))


@functools.cache
def program(name, static, names):
    """(arrays in the order of names, traced keywords) -> value, {argument: gradient}; compiled."""

    def run(values, traced):
        arrays = dict(zip(names, values, strict=True))

        def loss(varied):
            return direct(name, {k: varied.get(k, v) for k, v in arrays.items()}, keywords)

        keywords = dict(static) | traced
        return jax.value_and_grad(loss)({k: arrays[k] for k in floats(arrays)})

    return jax.jit(run, compiler_options=QUICK)


def split(keywords):
    """Static and traced ones."""
    traced = {k: v for k, v in keywords.items() if k in ("rng", "teacher_correct")}
    return tuple((k, v) for k, v in keywords.items() if k not in traced), traced


def run(name, arrays, options, **more):
    static, traced = split(CASES[name].keywords(arrays, options) | more)
    value, gradients = program(name, static, tuple(arrays))(list(arrays.values()), traced)
    return np.asarray(value), {k: np.asarray(g) for k, g in gradients.items()}


def call(name, arrays, options, **more):
    return run(name, arrays, options, **more)[0]


def test_every_loss_has_a_case():
    assert set(CASES) == set(TERMS) | set(FACES.values())


@pytest.mark.parametrize("name", TERMS)
def test_table_names_the_public_function(name):
    row = TERMS[name]
    for term in row.terms.values() if isinstance(row, Choice) else (row,):
        if name in FACES:
            assert term.loss is None and term.unreduced is getattr(losses, FACES[name])
        else:
            assert term.loss is getattr(losses, name) and term.unreduced is None


@pytest.mark.parametrize("name", FACES)
def test_both_faces_take_the_same_arguments(name):
    scalar, unreduced = (inspect.signature(getattr(losses, n)) for n in (name, FACES[name]))
    assert scalar.parameters == unreduced.parameters
    assert scalar.return_annotation is jax.Array
    assert unreduced.return_annotation == tuple[jax.Array, jax.Array]


@pytest.mark.parametrize("name", FACES)
def test_a_pixel_of_the_map_depends_on_that_pixel_alone(name):
    """Rows computed alone are those rows of the whole, and their mean is the loss."""
    case, fn = CASES[name], getattr(losses, FACES[name])
    arrays, options = case.make(13), case.options[-1]
    keywords = case.keywords(arrays, options)
    values, where = map(np.asarray, fn(*arrays.values(), **keywords))
    valid = arrays["valid"]
    assert values.shape == where.shape == valid.shape
    assert values.dtype == np.float32 and where.dtype == bool
    assert 0 < where.sum() <= valid.sum() and not where[~valid].any()
    np.testing.assert_allclose(
        values[where].mean(dtype=np.float64), case.expected(arrays, options), rtol=1e-5
    )
    for row in range(valid.shape[1]):
        strip = {k: v[:, row : row + 1] for k, v in arrays.items()}
        cut = {k: v[:, row : row + 1] if np.ndim(v) else v for k, v in keywords.items()}
        part, here = fn(*strip.values(), **cut)
        np.testing.assert_array_equal(here[:, 0], where[:, row])
        np.testing.assert_allclose(part[:, 0], values[:, row], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", [0, 1])
@expand(draws=False)
def test_reference(name, options, seed):
    arrays = CASES[name].make(seed)
    expected = CASES[name].expected(arrays, options)
    assert expected > 1e-3  # something was selected and differs
    value = call(name, arrays, options)
    assert value.shape == () and value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@expand()
def test_equal_inputs_give_zero(name, options):
    case, arrays = CASES[name], CASES[name].make(2)
    arrays[case.twin] = arrays[case.learner]
    value, gradients = run(name, arrays, options)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(gradients[case.learner], 0.0, atol=1e-6)


@expand()
def test_only_the_learner_gets_a_gradient(name, options):
    case, arrays = CASES[name], CASES[name].make(3)
    for key, g in run(name, arrays, options)[1].items():
        assert np.isfinite(g).all()
        assert (np.abs(g).max() > 1e-4) if key == case.learner else not g.any(), key


@expand(draws=False, selects=False)
def test_exact_in_float64(name, options):
    """Float64 inputs are computed in float64: the reference's value and slopes, to many digits."""
    case, arrays = CASES[name], CASES[name].make(4)
    _, narrow = run(name, arrays, options)
    learner = arrays[case.learner].astype(np.float64)
    with jax.enable_x64(True):
        wide = {k: v.astype(np.float64) if k in floats(arrays) else v for k, v in arrays.items()}
        static, traced = split(case.keywords(arrays, options))
        fresh = program.__wrapped__(name, static, tuple(wide))
        value, gradients = jax.device_get(fresh(list(wide.values()), traced))
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, case.expected(wide, options), rtol=1e-9)
    gradient = gradients[case.learner]
    scale = np.abs(gradient).max()
    assert scale > 1e-3
    np.testing.assert_allclose(narrow[case.learner], gradient, rtol=1e-4, atol=1e-5 * scale)
    anchor = {"anchor": learner} if case.anchored else {}
    rng = np.random.default_rng(4)
    for _ in range(4):
        way = rng.normal(size=learner.shape)
        above, below = (
            case.expected({**wide, case.learner: learner + step * way}, options, **anchor)
            for step in (1e-6, -1e-6)
        )
        slope = np.sum(gradient * way)
        np.testing.assert_allclose((above - below) / 2e-6, slope, rtol=1e-5, atol=1e-6 * scale)


def poisoned(name, arrays, poison):
    out = dict(arrays)
    for key, places in CASES[name].hidden(arrays).items():
        assert places.any()
        out[key] = out[key].copy()
        out[key][places] = poison if key in floats(arrays) else 1  # a class, not 255
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
    clean_value, clean = run(name, arrays, options)
    assert clean_value > 0
    value, gradients = run(name, dirty, options, **more)
    np.testing.assert_allclose(value, clean_value, rtol=1e-6)
    g = gradients[case.learner]
    np.testing.assert_allclose(g, clean[case.learner], rtol=1e-6, atol=1e-8)
    assert not g[case.hidden(arrays)[case.learner]].any()
    assert not gradients[case.twin].any()


@pytest.mark.parametrize("poison", [0.0, np.nan])
@expand(masked=True)
def test_everything_ignored(name, options, poison):
    case, arrays = CASES[name], CASES[name].make(6)
    arrays["valid"] = np.zeros_like(arrays["valid"])
    if poison:
        arrays = poisoned(name, arrays, poison)
    value, gradients = run(name, arrays, options)
    assert value == 0
    assert not gradients[case.learner].any()  # NaN would count as any


@expand(draws=False, selects=False)
def test_bfloat16_is_computed_in_float32(name, options):
    case, arrays = CASES[name], CASES[name].make(7)
    half = dict(arrays)
    for key in (case.learner, case.twin):
        half[key] = jnp.asarray(arrays[key], jnp.bfloat16)
        arrays[key] = np.asarray(half[key].astype(jnp.float32))  # the same numbers, wider
    static, traced = split(case.keywords(half, options))
    once = jax.jit(
        lambda x, kw: direct(name, dict(zip(half, x, strict=True)), dict(static) | kw),
        compiler_options=QUICK,
    )
    value = once(list(half.values()), traced)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, call(name, arrays, options), rtol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_jit_equals_eager(name):
    case, arrays, options = CASES[name], CASES[name].make(8), CASES[name].options[0]
    eager = direct(name, arrays, case.keywords(arrays, options))
    np.testing.assert_allclose(call(name, arrays, options), eager, rtol=2e-6)


@expand(draws=False)
def test_order_of_the_batch_does_not_matter(name, options):
    case, arrays = CASES[name], CASES[name].make(9)
    more = {k: v[::-1] for k, v in case.keywords(arrays, options).items() if k == "teacher_correct"}
    value = call(name, {k: v[::-1] for k, v in arrays.items()}, options, **more)
    np.testing.assert_allclose(value, call(name, arrays, options), rtol=1e-6)


@expand(draws=False, adds=True)
def test_halves_of_a_batch_add_up(name, options):
    """A mean over the batch is the halves' means, by how many each is a mean of."""
    case, arrays = CASES[name], CASES[name].make(12)
    total = count = 0
    for i in range(2):
        if "valid" in arrays:  # the other half is padding
            part = {**arrays, "valid": arrays["valid"] & (np.arange(2) == i)[:, None, None]}
        else:
            part = {k: v[i : i + 1] for k, v in arrays.items()}
        n = case.count(part, options)
        total, count = total + n * float(call(name, part, options)), count + n
    assert count > 0
    np.testing.assert_allclose(total / count, call(name, arrays, options), rtol=2e-6)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.per_pixel])
def test_order_of_the_positions_does_not_matter(name):
    arrays = CASES[name].make(10)
    n = arrays["valid"].size
    order = np.random.default_rng(0).permutation(n)
    moved = {k: v.reshape(n, -1)[order].reshape(v.shape) for k, v in arrays.items()}
    np.testing.assert_allclose(call(name, moved, {}), call(name, arrays, {}), rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.aligned])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_padding_does_not_matter(name, fill):
    """Nor ignored rows and columns, nor a whole image of them."""
    arrays, case = CASES[name].aligned(11), CASES[name]
    unit = np.min([v.shape[1:3] for v in arrays.values()], axis=0)
    padded = {}
    for key, value in arrays.items():
        more = [n // u for n, u in zip(value.shape[1:3], unit, strict=True)]  # one coarse cell
        width = [(0, 1), (0, more[0]), (0, more[1])] + [(0, 0)] * (value.ndim - 3)
        blank = {"valid": False, "labels": 255}.get(key, fill)
        padded[key] = np.pad(value, width, constant_values=blank)
    value, gradients = run(name, padded, {})
    clean_value, clean = run(name, arrays, {})
    np.testing.assert_allclose(value, clean_value, rtol=2e-6)
    g, h = gradients[case.learner], clean[case.learner]
    inside = tuple(slice(0, n) for n in h.shape)
    # Sums of another length are added up in another order.
    np.testing.assert_allclose(g[inside], h, rtol=1e-5, atol=1e-6 * np.abs(h).max())
    assert np.count_nonzero(g) == np.count_nonzero(g[inside])  # and no NaN outside
