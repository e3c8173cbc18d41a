"""Every operation, in both formulations, against its definition; the gradients too."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import ops

from . import reference


def _conv(x, kernel, stride=1, dilation=1, padding=None):
    symmetric = dilation * (kernel.shape[0] - 1) // 2
    padding = symmetric if padding is None else padding
    return reference.conv(x, kernel, stride, dilation, padding)


def _depthwise(x, kernel, stride=1, dilation=1):
    return reference.depthwise(x, kernel, stride, dilation)


def _convs():
    cases = [
        ("1x1", (2, 5, 4, 3), 1, 6, {}),
        ("1x1 stride 2", (2, 5, 4, 3), 1, 6, {"stride": 2}),
        ("1x1 padded", (1, 3, 4, 3), 1, 2, {"padding": 1}),
        ("1x1 one pixel", (2, 1, 1, 3), 1, 2, {}),
        ("3x3", (2, 5, 6, 3), 3, 4, {}),
        ("3x3 stride 2", (2, 7, 6, 3), 3, 4, {"stride": 2}),
        ("3x3 stride 2 one pixel", (1, 1, 1, 3), 3, 4, {"stride": 2}),
        ("3x3 dilation beyond the map", (1, 4, 3, 2), 3, 2, {"dilation": 6}),
        ("3x3 wide", (2, 4, 5, 257), 3, 256, {}),
        ("3x3 wide dilated stride 2", (1, 9, 8, 256), 3, 256, {"stride": 2, "dilation": 2}),
        ("7x7 stride 4", (1, 13, 10, 3), 7, 5, {"stride": 4}),
        ("7x7 stride 2", (1, 9, 8, 3), 7, 5, {"stride": 2}),
        ("reduction 2", (2, 6, 4, 3), 2, 3, {"stride": 2, "padding": 0}),
        ("reduction 4 with a remainder", (1, 11, 9, 3), 4, 3, {"stride": 4, "padding": 0}),
        ("3x3 valid", (1, 6, 5, 3), 3, 2, {"padding": 0}),
    ]
    for name, shape, size, out, options in cases:
        fan = size * size * shape[-1]
        arguments = [(shape, 1.0), ((size, size, shape[-1], out), fan**-0.5)]
        run, definition = partial(ops.conv, **options), partial(_conv, **options)
        yield pytest.param(run, definition, arguments, id=f"conv {name}")


def _depthwises():
    for shape, stride, dilation in [
        ((2, 5, 6, 3), 1, 1),
        ((3, 11, 4, 2), 1, 1),
        ((16, 3, 4, 2), 2, 1),
        ((2, 5, 6, 3), 2, 1),
        ((1, 8, 7, 2), 2, 1),
        ((1, 8, 7, 2), 1, 2),
        ((1, 8, 7, 2), 2, 2),
        ((1, 8, 7, 2), 1, 6),
        ((1, 7, 9, 2), 2, 3),
        ((1, 2, 9, 2), 1, 6),
        ((1, 9, 2, 2), 2, 6),
        ((1, 8, 7, 2), 1, 18),
        ((1, 1, 1, 4), 1, 1),
        ((1, 1, 1, 4), 2, 12),
    ]:
        options = {"stride": stride, "dilation": dilation}
        yield pytest.param(
            partial(ops.depthwise_conv, **options),
            partial(_depthwise, **options),
            [(shape, 1.0), ((3, 3, 1, shape[-1]), 0.3)],
            id=f"depthwise {shape} /{stride} d{dilation}",
        )


def _resizes():
    for shape, size in [
        ((2, 3, 4, 2), (6, 8)),
        ((1, 3, 5, 2), (12, 15)),
        ((1, 4, 4, 1), (32, 32)),
        ((1, 3, 4, 2), (5, 9)),
        ((1, 9, 7, 2), (4, 3)),
        ((1, 8, 8, 2), (2, 4)),
        ((1, 5, 6, 2), (10, 4)),
        ((1, 5, 6, 2), (5, 13)),
        ((2, 1, 1, 3), (4, 3)),
        ((1, 6, 5, 2), (1, 1)),
    ]:
        for align in (False, True):
            yield pytest.param(
                partial(ops.resize_bilinear, shape=size, align_corners=align),
                partial(reference.resize, shape=size, align_corners=align),
                [(shape, 1.0)],
                id=f"resize {shape} to {size}{' aligned' * align}",
            )


def _two_grids(coarse, fine, kernel):
    coarse = reference.resize(coarse, fine.shape[1:3])
    return _conv(np.concatenate([coarse, fine], axis=-1), kernel)


def _others():
    for coarse, grid, size in [
        ((2, 2, 3, 4), (8, 12), 3),
        ((1, 3, 2, 2), (10, 7), 3),
        ((1, 5, 1, 2), (5, 3), 5),
        ((1, 1, 1, 3), (1, 1), 1),
    ]:
        fine, channels = (*coarse[:1], *grid, 3), coarse[-1] + 3
        yield pytest.param(
            ops.conv_two_grids,
            _two_grids,
            [(coarse, 1.0), (fine, 1.0), ((size, size, channels, 4), 0.3)],
            id=f"conv of two grids {coarse} {grid}",
        )
    for shape in [(2, 6, 8, 3), (1, 7, 5, 2), (1, 6, 5, 2), (2, 1, 1, 3), (1, 2, 1, 2)]:
        yield pytest.param(
            ops.max_pool_3x3_stride_2, reference.max_pool, [(shape, 1.0)], id=f"pool {shape}"
        )
    for n, m, heads, depth in [(12, 5, 2, 4), (5, 12, 1, 3), (7, 7, 3, 8), (1, 1, 1, 1)]:
        shapes = [(2, n, heads, depth), (2, m, heads, depth), (2, m, heads, depth)]
        yield pytest.param(
            ops.attention,
            reference.attention,
            [(s, 1.5) for s in shapes],
            id=f"attention {n} {m} {heads} {depth}",
        )
    yield pytest.param(ops.gelu, reference.gelu, [((3, 50), 3.0)], id="gelu")


CASES = [*_convs(), *_depthwises(), *_resizes(), *_others()]
every_case = pytest.mark.parametrize(("run", "definition", "arguments"), CASES)


def _draw(arguments, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=shape) * scale).astype(dtype) for shape, scale in arguments]


@partial(jax.jit, static_argnums=0)
def _run(run, inputs, cotangent):
    y, pull = jax.vjp(run, *inputs)
    return y, pull(cotangent)


@every_case
def test_value_and_gradient(run, definition, arguments):
    """The value is the definition's; the gradient its slope along a random direction.

    The slope is a central difference in float64. The two formulations agree element by element.
    """
    inputs = _draw(arguments)
    exact = [a.astype(np.float64) for a in inputs]
    expected = definition(*exact)
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=expected.shape).astype(np.float32)
    gradients = {}
    for name in ("cpu", "plain"):
        with ops.using(name):
            value, gradients[name] = _run(run, inputs, cotangent)
        assert value.dtype == jnp.float32
        assert value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-6)

    step = 1e-6
    for at, (cpu, plain) in enumerate(zip(*gradients.values(), strict=True)):
        plain = np.asarray(plain, np.float64)
        np.testing.assert_allclose(cpu, plain, rtol=1e-5, atol=1e-5 * (1 + np.abs(plain).max()))
        direction = rng.normal(size=plain.shape)
        ends = []
        for move in (step, -step):
            moved = [a + move * direction if i == at else a for i, a in enumerate(exact)]
            ends.append(np.sum(definition(*moved) * cotangent))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.sum(plain * direction) == pytest.approx(
            slope, abs=1e-5 * (1 + np.linalg.norm(plain)), rel=1e-5
        )


@pytest.mark.parametrize("piece", [200, 1000, 4000])
@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((5, 7, 6, 3), 3, {}),
        ((2, 11, 8, 3), 3, {"stride": 2}),
        ((3, 9, 8, 3), 7, {"stride": 2}),
        ((2, 8, 7, 3), 3, {"dilation": 6}),
        ((2, 10, 9, 3), 3, {"stride": 2, "dilation": 2, "padding": 1}),
    ],
)
def test_weight_gradient_in_pieces(monkeypatch, piece, shape, size, options):
    """Cut into images, strips of rows, or strips of which the last is short: the same sum."""
    conv = sys.modules["collabseg_jax.ops.conv"]
    monkeypatch.setattr(conv, "PIECE", piece)
    monkeypatch.setattr(conv, "PIECES", 1000)
    x, kernel = _draw([(shape, 1.0), ((size, size, 3, 4), 0.3)])
    cotangent = np.random.default_rng(1).normal(size=_conv(x, kernel, **options).shape)
    gradients = {}
    for name in ("cpu", "plain"):
        with ops.using(name):
            run = partial(ops.conv, **options)
            gradients[name] = _run(run, (x, kernel), cotangent.astype(np.float32))[1]
    for cpu, plain in zip(*gradients.values(), strict=True):
        np.testing.assert_allclose(cpu, plain, rtol=1e-5, atol=1e-5 * (1 + np.abs(plain).max()))


# A third of the cases, which has every operation in it: compiling is what takes the time.
@pytest.mark.parametrize("formulation", ["cpu", "plain"])
@pytest.mark.parametrize(("run", "definition", "arguments"), [*CASES[1::3], CASES[-1]])
def test_bfloat16_stays_bfloat16(run, definition, arguments, formulation):
    inputs = _draw(arguments, jnp.bfloat16)
    expected = definition(*(a.astype(np.float64) for a in inputs))
    with ops.using(formulation):
        value, gradients = _run(run, inputs, np.ones(expected.shape, jnp.bfloat16))
    assert value.dtype == jnp.bfloat16
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    wide = [a.astype(np.float32) for a in inputs]
    with ops.using(formulation):
        _, exact = _run(run, wide, np.ones(expected.shape, np.float32))
    for gradient, wanted in zip(gradients, exact, strict=True):
        error = np.linalg.norm(np.asarray(gradient, np.float32) - wanted)
        assert error <= 0.03 * np.linalg.norm(wanted)
    np.testing.assert_allclose(
        np.asarray(value, np.float64), expected, rtol=0.02, atol=0.02 * np.abs(expected).max()
    )


# One case of every path through the operations.
FLOAT64 = (
    "conv 3x3 stride 2",
    "conv 3x3 wide",
    "depthwise (1, 8, 7, 2) /2 d2",
    "resize (1, 3, 4, 2) to (5, 9)",
    "resize (1, 3, 4, 2) to (5, 9) aligned",
    "resize (2, 3, 4, 2) to (6, 8)",
    "conv of two grids (1, 3, 2, 2) (10, 7)",
    "pool (1, 7, 5, 2)",
    "attention 12 5 2 4",
    "gelu",
)


@pytest.mark.parametrize(
    ("run", "definition", "arguments"), [{c.id: c for c in CASES}[name] for name in FLOAT64]
)
def test_float64_stays_float64(run, definition, arguments):
    """Neither the forward nor the backward pass rounds anything to float32."""
    inputs = _draw(arguments, np.float64)
    expected = definition(*inputs)
    gradients = []
    with jax.enable_x64(True):
        for name in ("cpu", "plain"):
            with ops.using(name):
                value, gradient = _run(run, inputs, np.cos(expected))
            gradients.append(gradient)
            assert {a.dtype for a in (value, *gradient)} == {np.dtype(np.float64)}
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
    for cpu, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(cpu, plain, rtol=1e-11, atol=1e-11)
