"""Weights of the original libraries: read here, they give the originals' outputs."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from collabseg_jax import interop, ops
from collabseg_jax.collab import augment
from tests.models import cases
from tests.oracles import originals, torch, torchvision, transformers

DATA = Path(__file__).parents[2] / "../shared/data"
REAL = DATA / "weights/mobilenet_v2_imagenet.safetensors"
PHOTO = DATA / "CamVid/val/0016E5_07959.jpg"

# One square, one not; neither side of the second is divisible by 32.
SIZES = ((64, 64), (75, 102))
SMP_SIZES = ((64, 64), (80, 112))  # smp wants multiples of the output stride
TOLERANCE = 1e-4
FAMILY = [pytest.param(f"b{i}", marks=[pytest.mark.slow] if i >= 3 else []) for i in range(6)]


def forward(model, variables, images, part="logits"):
    def run(variables, images):
        output = model.apply(variables, images, train=False)
        return output.logits_at(images.shape[1:3]) if part == "enlarged" else getattr(output, part)

    with ops.using("plain"):
        return jax.jit(run, compiler_options=cases.QUICK)(variables, images)


def agree(model, variables, module, sizes=SIZES, part="logits"):
    for size in sizes:
        images = cases.noise(1, *size, 3)
        got = forward(model, variables, images, part)
        assert cases.difference(got, originals.run(module, images)) < TOLERANCE


def load_encoder(path, encoder, **options):
    """A student of that encoder, its head random: making a fresh one takes long."""
    name = f"deeplabv3plus_{encoder}"
    model = cases.model(name, output_stride=32, **options)
    variables, _ = interop.load_pretrained(
        path, name=name, model=model, variables=cases.variables(model)
    )
    return model, variables


@pytest.mark.parametrize("variant", FAMILY)
def test_segformer_of_transformers(variant, tmp_path):
    module = originals.segformer(variant)
    module.save_pretrained(tmp_path)
    model, variables = interop.from_pretrained(tmp_path, name=f"segformer_{variant}")
    assert (model.num_classes, model.layer_norm_eps) == (originals.CLASSES, 1e-5)
    agree(model, variables, module)


def test_segformer_of_transformers_with_stages(tmp_path):
    """The module names that transformers has now, as its state_dict gives them."""
    module = originals.segformer("b0")
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    assert any(".stages." in name for name in module.state_dict())
    model, variables = interop.from_pretrained(tmp_path / "weights.pth", name="segformer_b0")
    agree(model, variables, module)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("stride", [16, 8])
def test_deeplab_of_smp(encoder, stride, tmp_path):
    module = originals.smp_deeplab(encoder, encoder_output_stride=stride)
    module.save_pretrained(tmp_path)
    model, variables = interop.from_pretrained(tmp_path, name=f"deeplabv3plus_{encoder}")
    assert (model.decoder, model.output_stride) == ("smp", stride)
    agree(model, variables, module, SMP_SIZES, "enlarged")


def test_segformer_of_smp(tmp_path):
    module = originals.smp_segformer("mit_b2")
    module.save_pretrained(tmp_path)
    model, variables = interop.from_pretrained(tmp_path, name="segformer_b2")
    assert (model.width, model.layer_norm_eps, model.align_corners) == (256, 1e-6, True)
    agree(model, variables, module, ((64, 64), (96, 128)), "enlarged")


RESNETS = ["resnet18", "resnet34", "resnet50", pytest.param("resnet101", marks=pytest.mark.slow)]


@pytest.mark.parametrize("encoder", RESNETS)
def test_resnet_of_torchvision(encoder, tmp_path):
    module = originals.torchvision_model(encoder)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    model, variables = load_encoder(tmp_path / "weights.pth", encoder)
    for size in SIZES:
        images = cases.noise(1, *size, 3)
        x = torch.tensor(images).permute(0, 3, 1, 2)
        x = module.maxpool(module.relu(module.bn1(module.conv1(x))))
        for i, got in enumerate(forward(model, variables, images, "stages"), 1):
            x = getattr(module, f"layer{i}")(x)
            assert cases.difference(got, originals.numpy(x)) < TOLERANCE


def test_mobilenet_v2_of_torchvision(tmp_path):
    module = originals.torchvision_model("mobilenet_v2")
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    model, variables = load_encoder(tmp_path / "weights.pth", "mobilenet_v2")
    for size in SIZES:
        images = cases.noise(1, *size, 3)
        x, start = torch.tensor(images).permute(0, 3, 1, 2), 0
        for end, got in zip(
            (4, 7, 14, 18), forward(model, variables, images, "stages"), strict=True
        ):
            x = module.features[start:end](x)
            start = end
            assert cases.difference(got, originals.numpy(x)) < TOLERANCE


@pytest.mark.skipif(not (REAL.is_file() and PHOTO.is_file()), reason="needs the real weights")
def test_the_real_weights_on_a_photo():
    """MobileNetV2's features of a street scene; the file has torchvision's names."""
    module = torchvision.models.mobilenet_v2().eval()
    missing, unexpected = module.load_state_dict(load_file(REAL), strict=False)
    assert not unexpected and all("classifier" in name for name in missing)
    model, variables = load_encoder(REAL, "mobilenet_v2")
    images = np.asarray(augment.normalize(np.asarray(Image.open(PHOTO))[None]))
    x, start = torch.tensor(images).permute(0, 3, 1, 2), 0
    for end, got in zip((4, 7, 14, 18), forward(model, variables, images, "stages"), strict=True):
        with torch.no_grad():
            x = module.features[start:end](x)
        start = end
        assert cases.difference(got, originals.numpy(x)) < 1e-3


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize(
    ("encoder", "layer", "channels", "depths"),
    [
        ("resnet18", "basic", (64, 128, 256, 512), (2, 2, 2, 2)),
        ("resnet50", "bottleneck", (256, 512, 1024, 2048), (3, 4, 6, 3)),
    ],
)
def test_resnet_of_transformers(encoder, layer, channels, depths, v1, tmp_path):
    config = transformers.ResNetConfig(
        hidden_sizes=list(channels),
        depths=list(depths),
        layer_type=layer,
        downsample_in_bottleneck=v1,
    )
    module = originals.randomise(transformers.ResNetForImageClassification(config))
    module.save_pretrained(tmp_path)
    model, variables = load_encoder(tmp_path, encoder, stride_in="1x1" if v1 else "3x3")
    for size in SIZES:
        images = cases.noise(1, *size, 3)
        x = torch.tensor(images).permute(0, 3, 1, 2)
        expected = module(x, output_hidden_states=True).hidden_states[1:]
        for got, theirs in zip(forward(model, variables, images, "stages"), expected, strict=True):
            assert cases.difference(got, originals.numpy(theirs)) < TOLERANCE


def test_mobilenet_v2_of_transformers(tmp_path):
    config = transformers.MobileNetV2Config(tf_padding=False, layer_norm_eps=0.01)
    module = originals.randomise(transformers.MobileNetV2Model(config))
    module.save_pretrained(tmp_path)
    name, other = "deeplabv3plus_mobilenet_v2", cases.model("deeplabv3plus_mobilenet_v2")
    _, said = interop.load_pretrained(
        tmp_path, name=name, model=other, variables=cases.variables(other)
    )
    assert said.endswith("they were made with bn_eps=0.01, this model has 1e-05")
    model, variables = load_encoder(tmp_path, "mobilenet_v2", bn_eps=0.01)
    for size in SIZES:
        images = cases.noise(1, *size, 3)
        x = torch.tensor(images).permute(0, 3, 1, 2)
        hidden = module(x, output_hidden_states=True).hidden_states
        for got, i in zip(forward(model, variables, images, "stages"), (1, 4, 11, 15), strict=True):
            assert cases.difference(got, originals.numpy(hidden[i])) < TOLERANCE
