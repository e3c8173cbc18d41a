"""torch's own files: NVlabs' layout, wrappers, and what must not be run or is not whole."""

import functools
import os

import numpy as np
import pytest

from collabseg_jax import interop
from collabseg_jax.errors import InputError
from tests.models import cases
from tests.oracles import originals, torch, transformers
from tests.oracles.test_in import TOLERANCE, forward

VIT = "segformer_b0"


@functools.cache
def segformer_of_smp():
    """smp's SegFormer contains NVlabs' encoder, and a head of the same form."""
    return originals.smp_segformer("mit_b0")


def as_nvlabs(state):
    """smp's names -> those of NVlabs' checkpoints."""
    renamed = {}
    for name, value in state.items():
        for r in range(4):
            name = name.replace(
                f"decoder.mlp_stage.{r}.linear", f"decode_head.linear_c{4 - r}.proj"
            )
        name = name.replace("decoder.fuse_stage.0", "decode_head.linear_fuse.conv")
        name = name.replace("decoder.fuse_stage.1", "decode_head.linear_fuse.bn")
        name = name.replace("segmentation_head.0", "decode_head.linear_pred")
        renamed[name.replace("encoder.", "backbone.")] = value
    return renamed


def save(content, path):
    torch.save(content, path)
    return path


def refused(path, name=VIT, **more):
    with pytest.raises(InputError) as caught:
        interop.from_pretrained(path, name=name, **more)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_parameters_that_still_want_gradients(tmp_path):
    """What `dict(model.named_parameters())` saves; without the running statistics."""
    content = dict(segformer_of_smp().named_parameters())
    assert "are missing" in refused(save(content, tmp_path / "a.pth"))


@pytest.mark.parametrize("content", [{"a": torch.eye(3).to_sparse()}, {0: torch.eye(3)}])
def test_tensors_of_other_kinds(tmp_path, content):
    assert "expected" in refused(save(content, tmp_path / "a.pth"))


def test_nvlabs_checkpoint(tmp_path):
    module = segformer_of_smp()
    state = as_nvlabs(module.state_dict())
    state |= {f"decode_head.conv_seg.{leaf}": torch.zeros(7) for leaf in ("weight", "bias")}
    content = {"meta": {"epoch": 3, "classes": ["a", "b"]}, "state_dict": state}
    path = save(content, tmp_path / "segformer.b0.pth")
    model, variables = interop.from_pretrained(path, name=VIT)
    assert (model.num_classes, model.layer_norm_eps) == (originals.CLASSES, 1e-6)
    for size in ((64, 64), (75, 102)):
        images = cases.noise(1, *size, 3)
        with torch.no_grad():
            features = module.encoder(torch.tensor(images).permute(0, 3, 1, 2))
        if size == (64, 64):  # smp's head needs sizes divisible by 4
            expected = module.segmentation_head[0](module.decoder(features))
            got = forward(model, variables, images)
            assert cases.difference(got, originals.numpy(expected)) < TOLERANCE
        for got, expected in zip(
            forward(model, variables, images, "stages"), features[2:], strict=True
        ):
            assert cases.difference(got, originals.numpy(expected)) < TOLERANCE


def test_nvlabs_imagenet_encoder(tmp_path):
    """mit_b0.pth: names without a prefix, and the classifier of ImageNet."""
    state = as_nvlabs(segformer_of_smp().state_dict())
    state = {k.removeprefix("backbone."): v for k, v in state.items() if "backbone." in k}
    state |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    path = save(state, tmp_path / "mit_b0.pth")
    assert "expected num_classes" in refused(path)
    model = cases.model(VIT)
    before = cases.variables(model)
    after, said = interop.load_pretrained(path, name=VIT, model=model, variables=before)
    assert "2 left out (head)" in said
    assert "fresh (classifier, decode_head)" in said
    assert said.endswith("made with layer_norm_eps=1e-06, this model has 1e-05")
    assert after["params"]["decode_head"] is not before["params"]["backbone"]
    kernel = after["params"]["backbone"]["stage1"]["block1"]["attention"]["value"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0], np.asarray(state["block1.0.attn.kv.weight"])[32:].T)


@pytest.mark.parametrize("kind", ["SegformerModel", "SegformerForImageClassification"])
@pytest.mark.parametrize("how", ["save_pretrained", "state_dict"])
def test_encoders_of_transformers(kind, how, tmp_path):
    """Without a prefix or with one, in the older names or the newer; a classifier is left out."""
    module = originals.randomise(getattr(transformers, kind)(transformers.SegformerConfig()))
    if how == "save_pretrained":
        module.save_pretrained(tmp_path)
        path = tmp_path
    else:
        path = save(module.state_dict(), tmp_path / "weights.bin")
    model = cases.model(VIT)
    before = cases.variables(model)
    after, said = interop.load_pretrained(path, name=VIT, model=model, variables=before)
    left_out = "0 left out (none)" if kind == "SegformerModel" else "2 left out (classifier)"
    assert left_out in said
    stages = getattr(module, "segformer", module).stages
    weight = stages[3].blocks[1].attention.k_proj.weight.detach().numpy()
    kernel = after["params"]["backbone"]["stage4"]["block2"]["attention"]["key"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0], weight.T)


def test_another_number_of_classes(tmp_path):
    """The classifier is initialised afresh, the rest of the head is used."""
    originals.segformer("b0").save_pretrained(tmp_path)
    model = cases.model(VIT, 5)
    before = cases.variables(model)
    after, said = interop.load_pretrained(tmp_path, name=VIT, model=model, variables=before)
    assert "fresh (classifier)" in said
    np.testing.assert_array_equal(
        after["params"]["classifier"]["kernel"], before["params"]["classifier"]["kernel"]
    )
    assert not np.array_equal(
        after["params"]["decode_head"]["fuse"], before["params"]["decode_head"]["fuse"]
    )
    loaded, variables = interop.from_pretrained(tmp_path, name=VIT, num_classes=3)
    assert variables["params"]["classifier"]["kernel"].shape[-1] == loaded.num_classes == 3


class Code:
    """Unpickling it would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickled_code_is_never_run(tmp_path):
    proof = tmp_path / "ran"
    path = save({"state_dict": Code(f"touch {proof}")}, tmp_path / "evil.pth")
    assert "could run any code and are not loaded" in refused(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert proof.exists()


def test_whole_model_is_refused(tmp_path):
    """torch.save(model) pickles classes, not a state_dict."""
    path = save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    assert "could run any code and are not loaded" in refused(path)


@pytest.mark.parametrize("size", [0, 100, -1000])
def test_truncated_torch_file(tmp_path, size):
    path = save(segformer_of_smp().state_dict(), tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:size])
    assert "not a readable torch file" in refused(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"b": "text"}}])
def test_not_a_state_dict(tmp_path, content):
    path = save(content, tmp_path / "weights.pth")
    assert "expected a dictionary of tensors (a state_dict)" in refused(path)


def test_larger_member_of_the_family(tmp_path):
    """B2 has B1's channels and more blocks, and another width of the head."""
    originals.segformer("b2").save_pretrained(tmp_path)
    assert "is it another member of the family?" in refused(tmp_path, "segformer_b1")
    assert "has the shape" in refused(tmp_path, "segformer_b0")
    assert "are missing, the first is" in refused(tmp_path, "segformer_b3")


def test_another_number_of_attention_heads(tmp_path):
    """No shape shows it, and the outputs would be wrong."""
    config = transformers.SegformerConfig(num_attention_heads=[2, 2, 5, 8], num_labels=3)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    message = refused(tmp_path)
    assert "num_attention_heads=[2, 2, 5, 8], expected [1, 2, 5, 8]" in message


def test_mobilenet_with_padding_of_tensorflow(tmp_path):
    module = transformers.MobileNetV2Model(transformers.MobileNetV2Config())
    module.save_pretrained(tmp_path)
    message = refused(tmp_path, "deeplabv3plus_mobilenet_v2", num_classes=3)
    assert "tf_padding is true" in message
    (tmp_path / "config.json").unlink()
    assert "tf_padding is true" in refused(tmp_path, "deeplabv3plus_mobilenet_v2", num_classes=3)
