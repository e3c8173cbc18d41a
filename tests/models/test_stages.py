"""The contract of the students: stages, shapes, dtypes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from flax import linen as nn
from flax.traverse_util import flatten_dict as flatten
from jax.extend import core

from collabseg_jax import ops
from collabseg_jax.models.layers import BatchNorm
from tests.models import cases

CNN, MOBILE, VIT = "deeplabv3plus_resnet18", "deeplabv3plus_mobilenet_v2", "segformer_b0"
# Channels of F1..F4: He et al. 2016; docs/method.md; Xie et al. 2021, table 6.
CHANNELS = {
    CNN: (64, 128, 256, 512),
    "deeplabv3plus_resnet50": (256, 512, 1024, 2048),
    MOBILE: (24, 32, 96, 320),
    VIT: (32, 64, 160, 256),
    "segformer_b1": (64, 128, 320, 512),
}

EVERY_PART = pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {}) for name in (CNN, MOBILE, VIT)],
        *[(CNN, {"decoder": "smp"}), (CNN, {"separable": False}), (VIT, {"head": "plain"})],
    ],
)


def abstract(name, size, *, train=False, batch=2, rngs=None, **options):
    """The output of a student as shapes and dtypes."""
    module = cases.model(name, **options)

    def run(variables, images):
        if not train:
            return module.apply(variables, images, train=False)
        return module.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)
    return jax.eval_shape(run, cases.shapes(module), images)


@pytest.mark.parametrize("size", [(64, 64), (65, 47), (33, 97)])
@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ((CNN, 16), (4, 8, 16, 16)),
        ((CNN, 8), (4, 8, 8, 8)),
        ((CNN, 32), (4, 8, 16, 32)),
        (("deeplabv3plus_resnet50", 16), (4, 8, 16, 16)),
        ((MOBILE, 8), (4, 8, 8, 8)),
        ((MOBILE, 16), (4, 8, 16, 16)),
        ((MOBILE, 32), (4, 8, 16, 32)),
        ((VIT, None), (4, 8, 16, 32)),
        (("segformer_b1", None), (4, 8, 16, 32)),
    ],
)
def test_stage_shapes(name, strides, size):
    name, stride = name
    options = {} if stride is None else {"output_stride": stride}
    output = abstract(name, size, **options)
    channels = cases.model(name, **options).stage_channels
    assert channels == CHANNELS[name]
    grids = [tuple(math.ceil(n / s) for n in size) for s in strides]
    assert [s.shape for s in output.stages] == [
        (2, *grid, c) for grid, c in zip(grids, channels, strict=True)
    ]
    assert output.embedding.shape == (2, *grids[0], 256)
    assert output.logits.shape == (2, *grids[0], 5)


@pytest.mark.parametrize("train", [False, True])
@EVERY_PART
def test_every_norm_is_in_the_mode_of_the_student(name, options, train):
    """Statistics of the batch in training, also deep inside the heads; else the running ones."""
    norms = [key for key in flatten(cases.shapes(cases.model(name, **options))) if key[-1] == "var"]
    modes = []

    def note(call, arguments, keywords, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            modes.append(keywords["batch_stats"])
        return call(*arguments, **keywords)

    with nn.intercept_methods(note):
        abstract(name, (64, 64), train=train, rngs={"dropout": jax.random.key(0)}, **options)
    assert norms and modes == [train] * len(norms)


def test_wide_segformer_embedding():
    assert abstract("segformer_b2", (64, 64)).embedding.shape == (2, 16, 16, 768)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", [CNN, MOBILE, VIT])
def test_types_under_bfloat16(name, train):
    rngs = {"dropout": jax.random.key(0)}
    output = abstract(name, (64, 64), train=train, rngs=rngs, dtype=jnp.bfloat16)
    assert output.logits.dtype == jnp.float32
    assert {a.dtype for a in (*output.stages, output.embedding)} == {jnp.dtype(jnp.bfloat16)}
    variables = cases.shapes(cases.model(name, dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def equations(jaxpr):
    """The equations of a program, at any depth."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def gradient_program(name, dtype, **options):
    """The program of a gradient of all outputs in training; images and parameters are wide."""
    module = cases.model(name, dtype=dtype, **options)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.promote_types(dtype, jnp.float32))

    def total(params, others, x):
        output, _ = module.apply(
            {"params": params, **others},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        maps = (output.logits, *output.stages)
        return sum(x.astype(images.dtype).sum() for x in maps)

    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, images.dtype), dict(cases.shapes(module))
    )
    params = variables.pop("params")
    return jax.make_jaxpr(jax.grad(total))(params, variables, images).jaxpr


@EVERY_PART
def test_no_gradient_is_summed_over_positions_in_bfloat16(name, options):
    """Autodiff turns a broadcast into a sum, in the dtype of what was broadcast."""
    for equation in equations(gradient_program(name, jnp.bfloat16, **options)):
        if equation.primitive.name == "reduce_sum":
            before, after = equation.invars[0].aval, equation.outvars[0].aval
            assert after.dtype != jnp.bfloat16 or np.prod(before.shape) == np.prod(after.shape)


@pytest.mark.parametrize("formulation", ["cpu", "plain"])
@pytest.mark.parametrize(("name", "options"), [(CNN, {"decoder": "smp"}), (VIT, {})])
def test_nothing_is_float32_under_float64(name, options, formulation):
    """So a float64 run is exact, forward and backward, with no part of it patched."""
    with jax.enable_x64(True), ops.using(formulation):
        program = gradient_program(name, jnp.float64, **options)
    dtypes = {v.aval.dtype for equation in equations(program) for v in equation.outvars}
    assert jnp.dtype(jnp.float64) in dtypes
    assert jnp.dtype(jnp.float32) not in dtypes


@pytest.mark.parametrize("options", [{"dropout": 0.0}, {"dropout": 0.2}])
@pytest.mark.parametrize("name", [CNN, VIT])
def test_only_random_parts_ask_for_a_key(name, options):
    if name == VIT:
        options = options | {"drop_path": 0.0}
    if options["dropout"] > 0:
        with pytest.raises(errors.InvalidRngError, match="dropout"):
            abstract(name, (64, 64), train=True, **options)
    else:
        assert abstract(name, (64, 64), train=True, **options).logits.shape == (2, 16, 16, 5)
