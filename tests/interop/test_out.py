"""What leaves comes back the same, runs elsewhere, and is written whole or not at all."""

import functools
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from collabseg_jax import interop
from collabseg_jax.collab import augment
from collabseg_jax.errors import InputError, RunError
from collabseg_jax.interop import jax_out
from collabseg_jax.interop.exported import Student
from tests import processes, quick
from tests.models import cases

VIT, CNN, MOBILE = "segformer_b0", "deeplabv3plus_resnet18", "deeplabv3plus_mobilenet_v2"
STUDENTS = [(VIT, {}), (CNN, {}), (MOBILE, {"decoder": "smp"})]
NAMES = ("sky", "road", "car", "tree", "none")
COLOURS = tuple((i, 2 * i, 3 * i) for i in range(5))


def export(name, directory, format, options=None, **more):
    options = options or {}
    variables = cases.variables(cases.model(name, **options))
    more = {"class_names": NAMES, "palette": COLOURS, **options, **more}
    interop.to_pretrained(name, variables, directory, format=format, **more)
    return variables


def refused(name, directory, format, options=None, **more):
    with pytest.raises(InputError) as caught:
        export(name, directory, format, options, **more)
    assert not directory.exists()
    assert list(directory.parent.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "format", "options"),
    [
        (VIT, "transformers", {}),
        ("segformer_b2", "transformers", {"width": 64}),
        (CNN, "smp", {"decoder": "smp", "output_stride": 8, "atrous_rates": (2, 4, 6)}),
        (CNN, "smp", {"decoder": "smp", "separable": False}),
        (MOBILE, "smp", {"decoder": "smp"}),
    ],
)
def test_there_and_back(name, format, options, tmp_path):
    before = export(name, tmp_path / "out", format, options)
    model, after = interop.from_pretrained(tmp_path / "out", name=name)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    for option, value in options.items():
        assert getattr(model, option) == value
    assert model.num_classes == 5


def test_transformers_directory(tmp_path):
    export(VIT, tmp_path / "out", "transformers")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.stat().st_mode & 0o444 for path in (tmp_path / "out").iterdir()} == {0o444}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    assert config["label2id"]["car"] == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(
    ("name", "options"),
    [STUDENTS[0], *(pytest.param(*student, marks=pytest.mark.slow) for student in STUDENTS[1:])],
)
def test_stablehlo_needs_only_jax(name, options, tmp_path):
    variables = export(name, tmp_path / "out", "stablehlo", options)
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (96, 160), (128, 32)] if name == VIT else [(64, 64), (91, 150), (32, 33)]
    images = {
        f"{batch}x{size}": rng.integers(0, 256, (batch, *size, 3), np.uint8)
        for batch, size in zip((1, 2, 1), sizes, strict=True)
    }
    np.savez(tmp_path / "images.npz", **images)
    code = (
        "import sys, load, numpy as np\n"
        "images = np.load('../images.npz')\n"
        "np.savez('../logits.npz', **{k: np.asarray(load.logits(images[k])) for k in images})\n"
        "assert not {'flax', 'collabseg_jax', 'torch', 'orbax'} & set(sys.modules)\n"
        "assert load.LABELS['classes'][2] == 'car'\n"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"XLA_FLAGS": quick.xla_flags(1)}
    subprocess.run(command, cwd=tmp_path / "out", env=environment, check=True)
    got = np.load(tmp_path / "logits.npz")
    module = cases.model(name, **options)

    @functools.partial(jax.jit, compiler_options=cases.QUICK)
    def logits(images):
        output = module.apply(variables, augment.normalize(images), train=False)
        return output.logits_at(images.shape[1:3])

    for key, batch in images.items():
        assert got[key].shape == (*batch.shape[:3], 5)
        assert cases.difference(got[key], logits(batch)) < 1e-5


def test_card(tmp_path):
    details = {
        "trained_on": "street scenes",
        "scores": {"miou": 0.51239, "split": "val"},
        "per_class": {"sky": 0.9, "road": None},
        "config": {"steps": 7},
    }
    export(VIT, tmp_path / "out", "transformers", details=details)
    card = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "# segformer_b0, 5 classes",
        "street scenes",
        "| miou | 0.5124 |",
        "| split | val |",
        "| 0 | sky | #000000 | 0.9000 |",
        "| 1 | road | #010203 | - |",
        ' "steps": 7',
    ):
        assert line in card.splitlines()


@pytest.mark.parametrize(
    ("name", "format", "options", "said"),
    [
        (CNN, "smp", {}, "was trained with decoder=paper, but segmentation-models-pytorch has smp"),
        (CNN, "smp", {"decoder": "smp", "bn_eps": 1e-3}, "trained with bn_eps=0.001"),
        ("deeplabv3plus_resnet50", "smp", {"decoder": "smp", "stride_in": "1x1"}, "stride_in=1x1"),
        (CNN, "smp", {"decoder": "smp", "stem": "deep"}, "with stem=deep"),
        (CNN, "transformers", {}, "takes a SegFormer, not deeplabv3plus_resnet18"),
        (VIT, "smp", {}, "takes a DeepLabV3+, not segformer_b0"),
        (VIT, "transformers", {"layer_norm_eps": 1e-6}, "train with layer_norm_eps=1e-05"),
        (VIT, "transformers", {"align_corners": True}, "trained with align_corners=True"),
        (VIT, "tensorrt", {}, "unknown format 'tensorrt'"),
    ],
)
def test_what_a_tool_cannot_express(name, format, options, said, tmp_path):
    assert said in refused(name, tmp_path / "out", format, options)


def test_labels_that_do_not_fit(tmp_path):
    message = refused(VIT, tmp_path / "out", "stablehlo", class_names=("a", "b"))
    assert message == "class_names has 2 entries, expected 5"
    message = refused(VIT, tmp_path / "out", "stablehlo", palette=((0, 0, 0),))
    assert message == "palette has 1 entries, expected 5"


def test_variables_that_do_not_fit(tmp_path):
    variables = cases.variables(cases.model(VIT))
    with pytest.raises(InputError, match=r"params/\S+ is .*, expected"):
        interop.to_pretrained("segformer_b1", variables, tmp_path / "out", format="stablehlo")
    with pytest.raises(InputError, match="params/classifier/kernel is missing"):
        interop.to_pretrained(VIT, {"params": {}}, tmp_path / "out", format="stablehlo")
    rest = {"params": variables["params"]}
    with pytest.raises(InputError, match="batch_stats/decode_head/norm/mean is absent"):
        interop.to_pretrained(VIT, rest, tmp_path / "out", format="stablehlo")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(InputError, match="exists already, expected a new or empty directory"):
        export(VIT, tmp_path / "out", "transformers")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]
    (tmp_path / "out" / "precious").unlink()
    export(VIT, tmp_path / "out", "transformers")
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made: .*file: File exists"):
        export(VIT, tmp_path / "file" / "out", "transformers")


@pytest.mark.parametrize(("options", "reason"), [("size=1m", "No space"), ("ro", "Read-only")])
def test_a_disk_that_cannot_take_it(options, reason, tmp_path):
    if not processes.can_mount(tmp_path):
        pytest.skip("needs Linux and the right to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "from pathlib import Path; import tests.interop.test_out as t\n"
        f"disk = Path({str(disk)!r})\n"
        "try: t.export(t.VIT, disk / 'out', 'transformers')\n"
        "except (t.InputError, RuntimeError) as e: print(type(e).__name__, e)\n"
        "print(list(disk.iterdir()))"
    )
    done = subprocess.run(
        processes.mounted(disk, options, [sys.executable, "-c", code]),
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    said, left = done.stdout.splitlines()
    assert said.startswith("InputError" if options == "ro" else "RunError")
    assert str(disk / "out") in said and reason in said
    assert left == "[]"


@pytest.mark.parametrize(
    ("name", "options"), [*STUDENTS[:2], pytest.param(*STUDENTS[2], marks=pytest.mark.slow)]
)
def test_onnx(name, options, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the onnx extra")
    pytest.importorskip("jax2onnx", reason="needs the onnx extra")
    variables = export(name, tmp_path / "out", "onnx", options, size=(64, 96))
    images = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: images})
    output = cases.model(name, **options).apply(variables, augment.normalize(images), train=False)
    assert cases.difference(got, output.logits_at((64, 96))) < 1e-5


def test_a_graph_that_computes_something_else_is_refused():
    class Wrong:
        def get_inputs(self):
            return [types.SimpleNamespace(name="images")]

        def run(self, _, feed):
            return [np.zeros((*feed["images"].shape[:3], 5), np.float32)]

    module = cases.model(VIT)
    student = Student(VIT, module, cases.variables(module), NAMES)
    with pytest.raises(RunError, match=r"differs from the model by 1\.0e\+00 of the largest logit"):
        jax_out._check_onnx(student, Wrong(), (1, 32, 32, 3))


def test_onnx_of_an_impossible_size(tmp_path):
    message = refused(VIT, tmp_path / "out", "onnx", size=(16, 64))
    assert "export size (16, 64): expected (height, width) of at least 32" in message
