"""One training step: loss, gradient and running statistics are those of the original libraries.

In float64 on both sides, which leaves nothing but mistakes to differ by. In float32 two correct
implementations of a CNN differ by about 1e-2: rounding puts single activations on the other side of
a ReLU's 0, and their gradients with them.
"""

import contextlib
import dataclasses
import importlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from collabseg_jax import interop, losses, ops
from collabseg_jax.models import DECODERS
from tests.models import cases
from tests.oracles import originals, torch

TOLERANCE = 1e-6  # the originals' side goes through files of weights, which are read as float32
BATCH, IGNORE = 3, 255
# Parameters that cannot change the loss, so that of their gradients only rounding is left. Each
# adds a constant to something that takes constants away again:
WITHOUT_EFFECT = {
    # all scores of a query alike, before its softmax
    "segformer_b0": r".*/attention/key/bias"
    # each channel alike, up to the linear head's BatchNorm; F4 goes nowhere else
    r"|decode_head/project\d_bias|backbone/stage4/norm/bias",
    "deeplabv3plus_resnet18": "$^",  # none: behind each norm is a ReLU, or the sum before one
    # each channel alike: there is no ReLU between a block's output and the BatchNorms behind the
    # 1x1 convolutions that read it
    "deeplabv3plus_mobilenet_v2": r"backbone/features\d+/project/norm/bias",
}


def original(name, monkeypatch):
    """The original of that name and the options of ours, both without anything random."""
    if name == "segformer_b0":
        still = {"classifier_dropout_prob": 0.0, "drop_path_rate": 0.0}
        return originals.segformer("b0", **still), {"dropout": 0.0, "drop_path": 0.0}
    still = dataclasses.replace(DECODERS["smp"], aspp_dropout=0.0)
    monkeypatch.setitem(DECODERS, "smp", still)
    module = originals.smp_deeplab(
        name.removeprefix("deeplabv3plus_"),
        encoder_output_stride=16,
        decoder_atrous_rates=(1, 2, 3),  # with the defaults, outer taps see only padding here
        decoder_aspp_dropout=0.0,
    )
    return module, {"dropout": 0.0}


def make_batch(size):
    """Images, and labels of which a fifth is to be ignored."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, originals.CLASSES, (BATCH, *size))
    labels[rng.random(labels.shape) < 0.2] = IGNORE
    return cases.noise(BATCH, *size, 3), labels


def their_step(module, images, labels):
    """The loss; the module is left with its gradients in the place of its parameters."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small convolutions in float64: more threads only wait
    try:
        module.double().train()
        images, labels = torch.tensor(images).double().permute(0, 3, 1, 2), torch.tensor(labels)
        if hasattr(module, "segformer"):
            loss = module(images, labels=labels).loss
        else:
            loss = torch.nn.functional.cross_entropy(module(images), labels, ignore_index=IGNORE)
        loss.backward()
    finally:
        torch.set_num_threads(threads)
    for parameter in module.parameters():
        parameter.data = parameter.grad
    return loss.item()


@contextlib.contextmanager
def float64():
    """Whatever the package computes in float32, it computes in float64."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        yield


def our_step(model, variables, images, labels):
    """The loss, the gradient, and the new running statistics, in float64."""

    def compute(params, batch_stats, images, labels):
        output, new = model.clone(dtype=jnp.float64).apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        ce, valid = losses.cross_entropy(
            output.logits_at(labels.shape[1:]), labels, ignore_label=IGNORE
        )
        return losses.masked_mean(ce, valid), new["batch_stats"]

    with float64():
        step = jax.jit(jax.value_and_grad(compute, has_aux=True), compiler_options=cases.QUICK)
        variables, images = cases.wide((variables, images))
        (loss, stats), gradient = step(
            variables["params"], variables["batch_stats"], images, labels
        )
        for value in jax.tree.leaves((loss, stats, gradient)):
            assert value.dtype == np.float64
        return jax.tree.map(np.asarray, (loss, gradient, stats))


def norms(tree):
    """{path: norm of the array}."""
    return {
        path: np.linalg.norm(value)
        for path, value in traverse_util.flatten_dict(tree, sep="/").items()
    }


def distances(a, b):
    """{path: norm of the difference of the arrays}."""
    return norms(jax.tree.map(np.subtract, a, b))


class Case(NamedTuple):
    """Our model before the step, and the step of the original: loss, gradient, statistics."""

    name: str
    model: nn.Module
    variables: dict
    batch: tuple
    loss: float
    gradient: dict
    stats: dict


@pytest.fixture(
    scope="module",
    params=[
        ("segformer_b0", (72, 104)),  # stages that do not divide each other
        ("deeplabv3plus_resnet18", (48, 64)),
        ("deeplabv3plus_mobilenet_v2", (48, 64)),
    ],
    ids=lambda param: param[0],
)
def case(request, tmp_path_factory):
    name, size = request.param
    path, batch = tmp_path_factory.mktemp(name), make_batch(size)
    with pytest.MonkeyPatch.context() as monkeypatch:
        module, options = original(name, monkeypatch)
        module.save_pretrained(path / "weights")
        model, variables = interop.from_pretrained(path / "weights", name=name, **options)
        loss = their_step(module, *batch)
        module.save_pretrained(path / "gradients")
        _, after = interop.from_pretrained(path / "gradients", name=name, **options)
        after = cases.wide(after)
        yield Case(name, model, variables, batch, loss, after["params"], after["batch_stats"])


@pytest.mark.parametrize("formulation", ["cpu", pytest.param("plain", marks=pytest.mark.slow)])
def test_training_step(case, formulation, monkeypatch):
    conv = importlib.import_module("collabseg_jax.ops.conv")
    # so small that both of "cpu"'s own weight gradients are met here, the second in many pieces
    monkeypatch.setattr(conv, "WIDE", 32 * 32)
    monkeypatch.setattr(conv, "PIECE", 2**14)
    with ops.using(formulation):
        loss, gradient, stats = our_step(case.model, case.variables, *case.batch)

    assert abs(loss - case.loss) < TOLERANCE * case.loss
    ours, theirs = norms(gradient), norms(case.gradient)
    wrong, largest = distances(gradient, case.gradient), max(theirs.values())
    for path in theirs:
        if re.fullmatch(WITHOUT_EFFECT[case.name], path):
            assert max(ours[path], theirs[path]) < TOLERANCE * largest, path
        else:
            assert wrong[path] < TOLERANCE * theirs[path], path
    whole = np.linalg.norm([*wrong.values()]) / np.linalg.norm([*theirs.values()])
    assert whole < TOLERANCE
    wrong, moved = distances(stats, case.stats), distances(stats, case.variables["batch_stats"])
    for path in wrong:
        assert wrong[path] < TOLERANCE * moved[path], path
