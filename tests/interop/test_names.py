"""The literal tables of names: complete for every model, and no tensor stands for two things."""

import pytest
from flax import traverse_util

from collabseg_jax import models
from collabseg_jax.interop.matching import ALL_NAMES, names_of
from collabseg_jax.interop.tensor_names import their_tensor
from tests.models import cases


def tensors_of(name):
    """(names of a tool, {our array: its tensor}) for each tool of a model, whose head fits it."""
    for names in names_of(name):
        module = cases.model(name, **names.head_needs)
        flat = traverse_util.flatten_dict(cases.shapes(module))
        prefix = names.prefixes[0]
        theirs = {key: their_tensor(names, prefix, key, leaf.shape) for key, leaf in flat.items()}
        yield names, theirs


@pytest.mark.parametrize("name", models.MODELS)
def test_every_array_has_a_tensor_of_its_own(name):
    for names, theirs in tensors_of(name):
        encoder = [tensor for key, tensor in theirs.items() if key[1] == "backbone"]
        head = [tensor for key, tensor in theirs.items() if key[1] != "backbone"]
        assert None not in encoder
        assert (None not in head) if names.head else (set(head) == {None})
        taken = [(t.name, t.module.half) for t in [*encoder, *head] if t is not None]
        assert len(set(taken)) == len(taken)
        halves = sorted(t for t, half in taken if half == 0)
        assert halves == sorted(t for t, half in taken if half == 1)


def test_every_tool_is_told_apart():
    """No tool's file is taken for another's."""
    for name in ("segformer_b0", "deeplabv3plus_resnet18", "deeplabv3plus_mobilenet_v2"):
        for names, theirs in tensors_of(name):
            tensors = {tensor.name for tensor in theirs.values() if tensor is not None}
            matching = [other for other in ALL_NAMES if other.prefix_in(tensors) is not None]
            assert matching == [names]
