"""The way back: what this package writes, the original libraries' own loaders read."""

import numpy as np
import pytest

from collabseg_jax import interop
from collabseg_jax.collab import augment
from tests.models import cases
from tests.oracles import originals, smp, torch, transformers


def assert_same_tensors(module, original):
    """Every parameter and running statistic, bit for bit; and so the same outputs."""
    got, expected = module.state_dict(), original.state_dict()
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(got[name], value), name


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, marks=pytest.mark.slow) if variant in ("b3", "b4") else variant
        for variant in originals.MIT_SHAPES
    ],
)
def test_segformer_to_transformers(variant, tmp_path):
    original, name = originals.segformer(variant), f"segformer_{variant}"
    original.save_pretrained(tmp_path / "original")
    model, variables = interop.from_pretrained(tmp_path / "original", name=name)
    names = [f"thing {i}" for i in range(originals.CLASSES)]
    interop.to_pretrained(
        name, variables, tmp_path / "ours", format="transformers", class_names=names
    )
    module, said = transformers.SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(said.values()), said
    assert module.config.id2label == dict(enumerate(names))
    assert_same_tensors(module, original)
    images = cases.noise(1, 75, 102, 3)
    np.testing.assert_array_equal(
        originals.run(module.eval(), images), originals.run(original, images)
    )


def test_image_processor(tmp_path):
    name = "segformer_b0"
    variables = cases.variables(cases.model(name))
    interop.to_pretrained(name, variables, tmp_path / "ours", format="transformers")
    processor = transformers.SegformerImageProcessor.from_pretrained(tmp_path / "ours")
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
    got = processor(images=image, return_tensors="np")["pixel_values"]
    expected = np.asarray(augment.normalize(image[None])).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "stride"),
    [("resnet18", 16), ("resnet50", 8), ("resnet101", 16), ("mobilenet_v2", 16)],
)
def test_deeplab_to_smp(encoder, stride, tmp_path):
    original = originals.smp_deeplab(encoder, encoder_output_stride=stride)
    original.save_pretrained(tmp_path / "original")
    name = f"deeplabv3plus_{encoder}"
    model, variables = interop.from_pretrained(tmp_path / "original", name=name)
    options = {"decoder": "smp", "output_stride": stride}
    interop.to_pretrained(name, variables, tmp_path / "ours", format="smp", **options)
    module = smp.from_pretrained(tmp_path / "ours").eval()
    assert_same_tensors(module, original)
    images = cases.noise(1, 80, 112, 3)
    np.testing.assert_array_equal(originals.run(module, images), originals.run(original, images))
