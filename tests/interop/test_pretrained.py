"""Encoder weights from a file: what is used, what is left out, and what is refused."""

import functools
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from collabseg_jax import interop
from collabseg_jax.errors import InputError
from tests.interop import files
from tests.models import cases

NAME = "deeplabv3plus_mobilenet_v2"
REAL = Path(__file__).parents[2] / "../shared/data/weights/mobilenet_v2_imagenet.safetensors"


@functools.cache
def values():
    return files.tensors()


@functools.cache
def variables():
    return cases.variables(cases.model(NAME))


def load_with_summary(path, name=NAME):
    model = cases.model(name)
    return interop.load_pretrained(path, name=name, model=model, variables=cases.variables(model))


def load(path, name=NAME):
    return load_with_summary(path, name)[0]


def flatten(tree):
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {path: np.asarray(leaf) for path, leaf in flat.items()}


def refused(path, name=NAME):
    with pytest.raises(InputError) as caught:
        load(path, name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"pretrained={path}: ")
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_every_tensor_of_the_encoder_is_used(path):
    before = jax.tree.map(np.copy, variables())
    got, fresh = flatten(load(files.write(path, values()))), flatten(variables())
    assert got.keys() == fresh.keys()
    encoder = {k for k in got if k.split("/")[1] == "backbone"}
    used = files.encoder(values())
    assert len(encoder) == len(used) == 255

    def fingerprint(tensors):
        return sorted(
            (v.size, float(np.sort(v.ravel()).astype(np.float64) @ np.arange(v.size)))
            for v in tensors
        )

    # Same numbers in both, each once; that they lie in the right place, test_encoders shows.
    assert fingerprint(got[k] for k in encoder) == fingerprint(used.values())
    for key in got:
        assert got[key].dtype == np.float32
        assert np.array_equal(got[key], fresh[key]) == (key not in encoder), key
    jax.tree.map(np.testing.assert_array_equal, before, variables())


def test_layout_and_places(path):
    got, tensors = flatten(load(files.write(path, values()))), values()
    kernels = {
        "stem/conv": "features.0.0",
        "features1/depthwise/conv": "features.1.conv.0.0",
        "features1/project/conv": "features.1.conv.1",
        "features17/expand/conv": "features.17.conv.0.0",
        "features17/depthwise/conv": "features.17.conv.1.0",
        "features17/project/conv": "features.17.conv.2",
    }
    for place, name in kernels.items():
        expected = tensors[f"{name}.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(got[f"params/backbone/{place}/kernel"], expected)
    leaves = {"params": {"scale": "weight", "bias": "bias"}}
    leaves["batch_stats"] = {"mean": "running_mean", "var": "running_var"}
    norms = {"stem/norm": "features.0.1", "features9/project/norm": "features.9.conv.3"}
    for place, name in norms.items():
        for collection, pairs in leaves.items():
            for leaf, theirs in pairs.items():
                expected = tensors[f"{name}.{theirs}"]
                key = f"{collection}/backbone/{place}/{leaf}"
                np.testing.assert_array_equal(got[key], expected)


def test_what_the_encoder_lacks_is_left_out_and_said(path):
    whole, summary = load_with_summary(files.write(path, values()))
    bare, bare_summary = load_with_summary(files.write(path, files.encoder(values())))
    head = len(flatten(variables())) - 255
    used, left_out, fresh = summary.split("; ", 1)[0], summary.split("; ", 1)[1], ""
    assert used.startswith(f"{path} is of torchvision MobileNetV2: 255 tensors used (for backbone)")
    # features.18: 1 + 5; the classifier: 2; num_batches_tracked of the other norms: 51
    assert left_out.startswith("59 left out (classifier, features.18; 52 num_batches_tracked); ")
    assert "; 0 left out (none); " in bare_summary
    fresh = f"; {head} of ours fresh (aspp, classifier, decoder1, decoder2, reduce_low)"
    assert summary.endswith(fresh) and bare_summary.endswith(fresh)
    jax.tree.map(np.testing.assert_array_equal, whole, bare)


@pytest.mark.parametrize(
    "name",
    [
        "features.3.conv.0.0.bias",
        "features.1.conv.3.weight",
        "features.2.conv.4.weight",
        "features.0.2.weight",
        "features.0.1.momentum",
        "features.19.0.weight",
        "layer1.0.conv1.weight",
        "decoder.weight",
    ],
)
def test_tensors_without_a_place(path, name):
    message = refused(files.write(path, values() | {name: np.zeros((2, 3), np.float32)}))
    assert f"1 tensors have no place in this model, the first is {name} (2, 3)" in message


def test_data_parallel_prefix(path):
    parallel = {f"module.{name}": value for name, value in values().items()}
    jax.tree.map(
        np.testing.assert_array_equal,
        load(files.write(path, parallel)),
        load(files.write(path, values())),
    )


def test_half_precision_becomes_float32(path):
    half = {k: v.astype(np.float16) for k, v in files.encoder(values()).items()}
    got = flatten(load(files.write(path, half)))["params/backbone/stem/conv/kernel"]
    assert got.dtype == np.float32
    expected = half["features.0.0.weight"].transpose(2, 3, 1, 0).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def test_bfloat16_becomes_float32(path):
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in files.encoder(values()).items()}
    got = flatten(load(files.write(path, half)))["params/backbone/stem/conv/kernel"]
    assert got.dtype == np.float32


def test_path_may_be_text_and_relative(path, monkeypatch):
    files.write(path, values())
    monkeypatch.chdir(path.parent)
    jax.tree.map(np.testing.assert_array_equal, load(path.name), load(str(path)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("features.5.conv.1.0.weight", (192, 1, 3, 3)),
        ("features.17.conv.3.running_var", (320,)),
    ],
)
def test_missing_tensor(path, name, shape):
    rest = {k: v for k, v in values().items() if k != name}
    message = refused(files.write(path, rest))
    assert "1 tensors of torchvision MobileNetV2 are missing, the first is " in message
    assert message.endswith(f"{name} {shape}")


def test_another_networks_file(path):
    message = refused(files.write(path, {"layer1.0.conv1.weight": np.zeros((2, 2, 3, 3), "f4")}))
    assert f"holds torchvision ResNet; {NAME} takes torchvision MobileNetV2, " in message
    message = refused(files.write(path, {"what.weight": np.zeros(2, "f4")}))
    assert "holds 1 tensors of unknown origin (what.weight); " in message


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("features.0.0.weight", (32, 1, 3, 3), "(32, 3, 3, 3)"),
        ("features.4.conv.1.1.running_var", (7,), "(144,)"),
        ("features.4.conv.2.weight", (32, 144), "(32, 144, 1, 1)"),
    ],
)
def test_wrong_shape(path, name, shape, expected):
    message = refused(files.write(path, values() | {name: np.zeros(shape, np.float32)}))
    assert message.endswith(f"tensor {name} has the shape {shape}, expected {expected}")


@pytest.mark.parametrize("size", [0, 5, 1000, -1000])
def test_truncated_file(path, size):
    files.write(path, values())
    path.write_bytes(path.read_bytes()[:size])
    assert "not a readable .safetensors file" in refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none(path, value):
    spoilt = {k: v.copy() for k, v in values().items()}
    spoilt["features.4.conv.1.1.weight"][5] = value
    message = refused(files.write(path, spoilt))
    assert "tensor features.4.conv.1.1.weight holds NaN or infinity" in message


@pytest.mark.parametrize("index", ["[]", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}'])
def test_an_index_of_shards_that_is_none(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match="not a readable index of shards"):
        load(tmp_path)


def test_not_safetensors(path):
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)
    assert "not a readable .safetensors file" in refused(path)


def test_no_such_file(path):
    assert "no such file" in refused(path)
    assert "no weights in this directory, expected one of model.safetensors" in refused(path.parent)


@pytest.mark.parametrize("name", ["segformer_b0", "deeplabv3plus_resnet18"])
def test_model_of_another_kind(path, name):
    message = refused(files.write(path, values()), name)
    assert f"holds torchvision MobileNetV2; {name} takes " in message


def test_unknown_model(path):
    with pytest.raises(InputError, match="unknown model 'no_model'"):
        interop.from_pretrained(files.write(path, values()), name="no_model")


def test_number_of_classes_without_a_head(path):
    files.write(path, values())
    with pytest.raises(InputError, match="expected num_classes"):
        interop.from_pretrained(path, name=NAME)
    model, loaded = interop.from_pretrained(path, name=NAME, num_classes=3, bn_momentum=0.5)
    assert (model.num_classes, model.bn_momentum) == (3, 0.5)
    assert loaded["params"]["classifier"]["kernel"].shape == (1, 1, 256, 3)
    ours, theirs = flatten(loaded), flatten(load(path))
    for key in theirs:
        if key.split("/")[1] == "backbone":
            np.testing.assert_array_equal(ours[key], theirs[key])
    kernel = ours["params/aspp/point/conv/kernel"]
    assert 0 < kernel.std() < 1  # fresh, not zero


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not there")
def test_the_real_weights():
    got = flatten(load(REAL))
    fresh = flatten(variables())
    changed = {k for k in got if not np.array_equal(got[k], fresh[k])}
    assert changed == {k for k in got if k.split("/")[1] == "backbone"}
    assert all(np.isfinite(v).all() for v in got.values())
    assert all((v > 0).all() for k, v in got.items() if k.endswith("/var") and k in changed)
