"""Decoders against float64 NumPy, and whole students: stages chained, both forms of the head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import models, ops
from tests.models import cases
from tests.models import reference as ref
from tests.ops.reference import resize

CNN, MOBILE, VIT = "deeplabv3plus_resnet18", "deeplabv3plus_mobilenet_v2", "segformer_b0"


@functools.cache
def evaluated(name):
    """(module, variables, images, output) of a student, op by op, so that equal means equal."""
    module = cases.model(name)
    variables = cases.variables(module)
    images = cases.noise(1, 33, 47, 3)
    with ops.using("plain"):
        return module, variables, images, module.apply(variables, images, train=False)


@pytest.mark.parametrize("name", [CNN, MOBILE, VIT])
def test_stages_one_after_the_other_are_the_encoder(name):
    module, variables, x, output = evaluated(name)
    with ops.using("plain"):
        for i, expected in enumerate(output.stages, 1):
            x = module.apply(variables, i, x, batch_stats=False, method="stage")
            np.testing.assert_array_equal(x, expected)
            assert float(jnp.std(expected)) > 1e-3


@pytest.mark.parametrize("name", [CNN, MOBILE])
def test_decoder_of_deeplab(name):
    """Reduce F1, enlarge the ASPP's output to it, concatenate in that order, two 3x3, classify."""
    module, variables, _, output = evaluated(name)
    p, s = (cases.wide(variables[k]) for k in ("params", "batch_stats"))
    stages = cases.wide(output.stages)
    low = ref.conv_norm(stages[0], p["reduce_low"], s["reduce_low"])
    assert low.shape[-1] == 48
    x = aspp(stages[3], p["aspp"], s["aspp"], (6, 12, 18))
    x = np.concatenate([ref.resize(x, low.shape[1:3]), low], -1)
    for part in ("decoder1", "decoder2"):
        x = separable(x, p[part], s[part], 1)
    assert cases.difference(output.embedding, x) < 1e-4
    assert cases.difference(output.logits, ref.linear(x, p["classifier"])) < 1e-4


def test_head_of_segformer():
    module, variables, _, output = evaluated(VIT)
    p, s = (cases.wide(variables[k]) for k in ("params", "batch_stats"))
    x = mlp_head(cases.wide(output.stages), p["decode_head"], s["decode_head"])
    assert cases.difference(output.embedding, x) < 1e-4
    assert cases.difference(output.logits, ref.linear(x, p["classifier"])) < 1e-4


def separable(x, p, s, dilation):
    x = ref.conv_norm(x, p["depthwise"], s["depthwise"], dilation=dilation)
    return ref.conv_norm(x, p["pointwise"], s["pointwise"])


def dense(x, p, s, dilation):
    return ref.conv_norm(x, p["dense"], s["dense"], dilation=dilation)


def aspp(x, p, s, rates, threes=separable):
    """Chen et al. 2017, section 3.3."""
    branches = [ref.conv_norm(x, p["point"], s["point"])]
    for i, rate in enumerate(rates, 1):
        branches.append(threes(x, p[f"atrous{i}"], s[f"atrous{i}"], rate))
    pooled = ref.conv_norm(x.mean((1, 2), keepdims=True), p["pool"], s["pool"])
    branches.append(np.broadcast_to(pooled, branches[0].shape))
    return ref.conv_norm(np.concatenate(branches, -1), p["project"], s["project"])


def mlp_head(stages, p, s):
    """Xie et al. 2021, eq. 4; the original concatenates from F4 to F1."""
    parts = []
    for i in (4, 3, 2, 1):
        y = stages[i - 1] @ p[f"project{i}_kernel"] + p[f"project{i}_bias"]
        parts.append(ref.resize(y, stages[0].shape[1:3]))
    x = np.concatenate(parts, -1) @ p["fuse"]
    return ref.relu(ref.batch_norm(x, **p["norm"], **s["norm"]))


@pytest.mark.parametrize(
    ("convolutions", "size"), [("separable", (21, 7)), ("separable", (5, 4)), ("dense", (14, 20))]
)
def test_aspp(convolutions, size):
    atrous = functools.partial(models.aspp.Conv3x3, separable=convolutions == "separable")
    module = models.aspp.ASPP((6, 12, 18), atrous)
    x = cases.noise(2, *size, 12) + 0.3
    variables = cases.module_variables(module, x, batch_stats=False)
    got = jax.jit(lambda v, x: module.apply(v, x, batch_stats=False))(variables, x)
    p, s = (cases.wide(variables[k]) for k in ("params", "batch_stats"))
    threes = separable if convolutions == "separable" else dense
    assert cases.difference(got, aspp(cases.wide(x), p, s, (6, 12, 18), threes)) < 1e-5


@pytest.mark.parametrize("formulation", ["cpu", "plain"])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("reference", [separable, dense])
def test_two_grids_enter_the_decoder(reference, align, formulation):
    """The coarse map is enlarged, and its channels come first."""
    module = models.aspp.Conv3x3(5, separable=reference is separable, align_corners=align)
    fine, coarse = cases.noise(2, 9, 7, 3) + 0.3, cases.noise(2, 3, 2, 4, seed=1)
    variables = cases.module_variables(module, fine, coarse, batch_stats=False)
    with ops.using(formulation):
        got = jax.jit(functools.partial(module.apply, batch_stats=False))(variables, fine, coarse)
    enlarged = resize(cases.wide(coarse), (9, 7), align)
    x = np.concatenate([enlarged, cases.wide(fine)], -1)
    p, s = (cases.wide(variables[k]) for k in ("params", "batch_stats"))
    assert cases.difference(got, reference(x, p, s, 1)) < 1e-5


HEAD_CHANNELS = (6, 8, 10, 12)


def head_inputs():
    grids = ((13, 9), (7, 5), (4, 3), (2, 2))
    return [cases.noise(2, *grid, c, seed=c) for grid, c in zip(grids, HEAD_CHANNELS, strict=True)]


@pytest.mark.parametrize("folded", [True, False])
def test_head_alone(folded):
    module, stages = models.segformer.MLPHead(16, folded), head_inputs()
    variables = cases.module_variables(module, stages, batch_stats=False)
    got = jax.jit(lambda v, x: module.apply(v, x, batch_stats=False))(variables, stages)
    p, s = (cases.wide(variables[k]) for k in ("params", "batch_stats"))
    assert cases.difference(got, mlp_head(cases.wide(stages), p, s)) < 1e-5


@pytest.mark.parametrize("train", [False, True])
def test_folded_and_plain_heads_are_one_function(train):
    channels = cases.model(VIT).stage_channels
    grids = ((13, 9), (7, 5), (4, 3), (2, 2))
    stages = [cases.noise(2, *g, c, seed=c) for g, c in zip(grids, channels, strict=True)]
    variables = cases.variables(cases.model(VIT))
    cotangent = cases.noise(2, 13, 9, 5, seed=9)

    def classify(module, stages):
        return module.classifier(module.decode_head(stages, batch_stats=train))

    results = []
    for head in ("folded", "plain"):
        module = cases.model(VIT, head=head)

        def run(params, stages, module=module):
            joined = variables | {"params": variables["params"] | params}
            logits = module.apply(joined, stages, method=classify)
            return jnp.sum(logits * cotangent), logits

        params = {k: variables["params"][k] for k in ("decode_head", "classifier")}
        grad = jax.jit(jax.grad(run, argnums=(0, 1), has_aux=True))
        results.append(grad(params, stages))
    (folded_grads, folded), (plain_grads, plain) = results
    assert cases.difference(folded, plain) < 1e-5
    flat, _ = jax.tree_util.tree_flatten_with_path(plain_grads)
    for (path, expected), got in zip(flat, jax.tree.leaves(folded_grads), strict=True):
        if train and "project" in str(path) and "bias" in str(path):
            # BatchNorm cancels these offsets: both gradients are rounding errors.
            assert max(float(jnp.abs(g).max()) for g in (got, expected)) < 1e-2
            continue
        assert cases.difference(got, expected) < 2e-5, path
