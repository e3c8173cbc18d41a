"""The literal tables of names: complete for every model, and no tensor stands for two things."""

import pytest
from flax import traverse_util

from collabseg_jax import models
from collabseg_jax.interop.layout import source
from collabseg_jax.interop.pretrained import LAYOUTS, layouts_of
from tests.models import cases


def places(name):
    """(layout, {our array: its source}) for each layout of a model, whose head fits it."""
    for layout in layouts_of(name):
        module = cases.model(name, **layout.head_needs)
        flat = traverse_util.flatten_dict(cases.shapes(module))
        prefix = layout.prefixes[0]
        yield layout, {key: source(layout, prefix, key, leaf.shape) for key, leaf in flat.items()}


@pytest.mark.parametrize("name", models.MODELS)
def test_every_array_has_a_tensor_of_its_own(name):
    for layout, sources in places(name):
        encoder = [found for key, found in sources.items() if key[1] == "backbone"]
        head = [found for key, found in sources.items() if key[1] != "backbone"]
        assert None not in encoder
        assert (None not in head) if layout.head else (set(head) == {None})
        taken = [(f.tensor, f.module.half) for f in [*encoder, *head] if f is not None]
        assert len(set(taken)) == len(taken)
        halves = sorted(t for t, half in taken if half == 0)
        assert halves == sorted(t for t, half in taken if half == 1)


def test_every_layout_is_told_apart():
    """No tool's file is taken for another's."""
    for name in ("segformer_b0", "deeplabv3plus_resnet18", "deeplabv3plus_mobilenet_v2"):
        for layout, sources in places(name):
            tensors = {found.tensor for found in sources.values() if found is not None}
            matching = [other for other in LAYOUTS if other.prefix_in(tensors) is not None]
            assert matching == [layout]
