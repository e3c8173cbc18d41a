"""Whole runs: what a workdir holds, resuming, evaluation, prediction, refusals."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

import collabseg_jax
from collabseg_jax import data
from collabseg_jax.collab import sharding
from collabseg_jax.errors import InputError
from collabseg_jax.modes import evaluate, export, predict, train
from collabseg_jax.run import record
from collabseg_jax.run.checkpoint import Checkpoints
from tests import tiny

pytestmark = pytest.mark.usefixtures("tiny_models")


@pytest.fixture(scope="module")
def finished(data_dir, train_tiny):
    """(workdir, config) of an uninterrupted run."""
    config = tiny.make_config(data_dir, **{"log.samples": 2})
    return train_tiny(config, teaching=True), config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_workdir_holds_what_is_promised(finished):
    workdir, config = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 12
    spec = data.get_spec("shapes")
    for name in ("cnn", "vit", "ensemble"):
        assert list(results[name]["iou"]) == list(spec.classes)
        present = [v for v in results[name]["iou"].values() if v is not None]
        assert results[name]["miou"] == pytest.approx(np.mean(present))
    logged = [line for line in lines(workdir) if "cnn/ce" in line]
    assert [line["step"] for line in logged] == [2, 4, 6, 8, 10, 12]
    expected = {
        f"{s}/{k}" for s in ("cnn", "vit") for k in ("ce", "hfd", "bsd_region", "bsd_pixel")
    }
    assert expected <= set(logged[-1])
    assert [line["step"] for line in lines(workdir) if "eval/cnn/miou" in line] == [6, 12]
    record = json.loads((workdir / "config.json").read_text())
    assert record["config"]["cnn"]["model"] == "tiny_cnn"
    assert record["versions"]["jax"] == jax.__version__
    assert record["data_fingerprint"]
    for picture in ("samples.png", "teaching.png"):
        assert Image.open(workdir / picture).size[0] > 1000
    assert list(workdir.glob("events.out.tfevents.*"))
    assert (workdir / "checkpoints" / "12" / "state").is_dir()


def test_interrupted_run_ends_in_the_same_bits(finished, data_dir, tmp_path, monkeypatch):
    """Stopped by an exception after step 7, continued from the checkpoint of step 6."""
    workdir, config = finished
    original, calls = sharding.Layout.place, []

    def failing(layout, batch):
        calls.append(layout.spatial)  # only training's is
        if sum(calls) == 8:
            raise KeyboardInterrupt
        return original(layout, batch)

    with monkeypatch.context() as patch:
        patch.setattr(sharding.Layout, "place", failing)
        with pytest.raises(KeyboardInterrupt):
            train.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    train.run(config, tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal,
        tiny.trained_arrays(workdir, config),
        tiny.trained_arrays(tmp_path / "run", config),
    )
    steps = [line["step"] for line in lines(tmp_path / "run") if "cnn/ce" in line]
    assert steps == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("evaluation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_sigterm_ends_an_evaluation(finished, tmp_path, monkeypatch, evaluation):
    """At once; the state is saved, and the run continues to the same bits."""
    workdir, config = finished
    original, begun, step = data.eval_batches, [], 6 * evaluation

    def asking(*args, **kwargs):
        begun.append(args)
        for batch in original(*args, **kwargs):
            if len(begun) == evaluation:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(data, "eval_batches", asking)
        assert train.run(config, tmp_path) is None
    assert (tmp_path / "checkpoints" / str(step) / "state").is_dir()
    assert step not in [line["step"] for line in lines(tmp_path) if "eval/cnn/miou" in line]
    train.run(config, tmp_path)
    for name in ("results.json", "samples.png"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()


def test_finished_run_is_not_trained_again(finished):
    workdir, config = finished
    before = tiny.trained_arrays(workdir, config)
    results = train.run(config, workdir)
    assert results["step"] == 12
    jax.tree.map(np.testing.assert_array_equal, before, tiny.trained_arrays(workdir, config))


def test_eval_mode_equals_the_last_evaluation(finished):
    workdir, config = finished
    evaluate.run(config, workdir)
    written = json.loads((workdir / "eval_val.json").read_text())
    assert written == json.loads((workdir / "results.json").read_text())


def test_best_checkpoint_can_be_asked_for(finished, data_dir, monkeypatch):
    workdir, _ = finished
    asked = []
    monkeypatch.setattr(
        Checkpoints, "best_step", lambda self: asked.append(self.steps()[0]) or asked[0]
    )
    config = tiny.make_config(data_dir, **{"eval.checkpoint": "best"})
    assert [evaluate.run(config, workdir)["step"]] == asked
    assert asked[0] < 12  # not the latest


def test_other_configuration_is_refused_by_name(finished, data_dir):
    workdir, _ = finished
    config = tiny.make_config(data_dir, **{"losses.bsd_pixel.weight": 0.0, "seed": 1})
    with pytest.raises(InputError, match=r"losses\.bsd_pixel\.weight.*seed"):
        train.run(config, workdir)
    free = tiny.make_config(data_dir, **{"eval.every": 3, "log.every": 1, "data.workers": 1})
    record.refuse_other_config(free, workdir)


def test_a_mistyped_file_of_weights_does_not_spoil_the_workdir(data_dir, tmp_path):
    config = tiny.make_config(data_dir, steps=1, **{"cnn.pretrained": "/nowhere.safetensors"})
    with pytest.raises(InputError, match=r"/nowhere\.safetensors: no such file"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_predict_writes_maps_at_the_pictures_own_size(finished, tmp_path):
    workdir, config = finished
    rng = np.random.default_rng(0)
    sizes = {"a": (50, 70), "b": (64, 40), "c": (33, 35)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    config = config.copy_and_resolve_references()
    config.predict.images = str(tmp_path / "*.png")
    config.predict.student = "cnn"
    predict.run(config, workdir)
    segment = collabseg_jax.load(workdir, "cnn")
    for name, size in sizes.items():
        labels = np.asarray(Image.open(workdir / "predictions" / f"{name}.png"))
        overlay = np.asarray(Image.open(workdir / "predictions" / f"{name}_overlay.jpg"))
        assert labels.shape == size
        assert overlay.shape == (*size, 3)
        image = np.asarray(Image.open(tmp_path / f"{name}.png"))
        np.testing.assert_array_equal(segment(image), labels)


@pytest.mark.parametrize("folder", [".", "sub/.."])
def test_pictures_are_not_written_over(finished, tmp_path, folder):
    workdir, config = finished
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    before = (tmp_path / "a.png").read_bytes()
    config = config.copy_and_resolve_references()
    config.predict.images, config.predict.dir = str(tmp_path / "*.png"), str(tmp_path / folder)
    with pytest.raises(InputError, match=r"a\.png lies in the folder .*another .*predict\.dir"):
        predict.run(config, workdir)
    assert (tmp_path / "a.png").read_bytes() == before


def test_predictions_in_the_values_of_the_label_files(finished, tmp_path, monkeypatch):
    workdir, config = finished
    official = (7, 8, 11, 12, 13, 17, 19, 20)
    spec = dataclasses.replace(data.get_spec("shapes"), official_values=official)
    monkeypatch.setattr(predict, "recorded_spec", lambda _: spec)
    image = np.random.default_rng(0).integers(0, 255, (45, 60, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    config = config.copy_and_resolve_references()
    config.predict.images, config.predict.dir = str(tmp_path / "a.png"), str(tmp_path / "out")
    config.predict.encoding, config.predict.overlays = "official", False
    config.eval.short_side, config.eval.flip = 64, True
    predict.run(config, workdir)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    written = Image.open(tmp_path / "out" / "a.png")
    expected = predict.predictor(workdir, config, "ensemble")(image)
    assert written.mode == "L"
    np.testing.assert_array_equal(np.asarray(written), np.array(official)[expected])


@pytest.mark.parametrize("student", ["cnn", "vit"])
def test_exported_student_gives_the_same_labels(finished, student):
    workdir, config = finished
    config = config.copy_and_resolve_references()
    config.export.format, config.export.student = "stablehlo", student
    export.run(config, workdir)
    folder = workdir / "export" / f"{student}_stablehlo"
    exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    labels = np.asarray(exported.call(image[None])).argmax(-1)[0]
    np.testing.assert_array_equal(labels, collabseg_jax.load(workdir, student)(image))
    spec, results = data.get_spec("shapes"), json.loads((workdir / "results.json").read_text())
    assert json.loads((folder / "labels.json").read_text())["classes"] == list(spec.classes)
    card = (folder / "README.md").read_text()
    assert f"| miou | {results[student]['miou']:.4f} |" in card
    assert "shapes, 12 steps of 4 images" in card
    with pytest.raises(InputError, match="exists already"):
        export.run(config, workdir)


def test_scores_of_another_step_are_not_on_the_card(finished, tmp_path):
    workdir, config = finished
    results = json.loads((workdir / "results.json").read_text())
    details = export.card_details(config, workdir, data.get_spec("shapes"), "vit", 6)
    assert "scores" not in details
    details = export.card_details(config, workdir, data.get_spec("shapes"), "vit", 12)
    assert details["scores"]["miou"] == results["vit"]["miou"]
    assert details["scored"] == "The images were seen at their own sizes."
    results["inference"] = {"short_side": 512, "window": [], "scales": [0.5, 1.0], "flip": True}
    (tmp_path / "results.json").write_text(json.dumps(results))
    details = export.card_details(config, tmp_path, data.get_spec("shapes"), "vit", 12)
    assert details["scored"] == (
        "The images were seen resized to a shorter side of 512, at the scales 0.5, 1.0, mirrored "
        "too. The exported model does not do that by itself."
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"export.format": "tensorflow"}, "unknown export.format 'tensorflow'"),
        ({"export.format": "onnx", "export.student": "ensemble"}, "unknown export.student"),
        ({"export.format": "smp", "export.student": "cnn"}, "was trained with decoder=paper"),
    ],
)
def test_export_names_what_is_wrong(finished, overrides, message):
    workdir, config = finished
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(overrides)
    with pytest.raises(InputError, match=message):
        export.run(config, workdir)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"predict.images": "/nowhere/*.jpg"}, "matches no file"),
        ({"predict.student": "cn"}, "cnn"),
        ({"predict.encoding": "oficial"}, "did you mean 'official'"),
    ],
)
def test_prediction_names_what_is_wrong(finished, tmp_path, overrides, message):
    workdir, config = finished
    Image.new("RGB", (40, 40)).save(tmp_path / "fine.png")
    config = config.copy_and_resolve_references()
    config.predict.images = str(tmp_path / "fine.png")
    config.update_from_flattened_dict(overrides)
    with pytest.raises(InputError, match=message):
        predict.run(config, workdir)


def test_workdir_without_a_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json not found"):
        collabseg_jax.load(tmp_path, "cnn")


def test_a_picture_that_cannot_be_drawn_does_not_end_a_run(finished, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ValueError("Expected end of text")

    workdir, config = finished
    shutil.copytree(workdir, tmp_path / "run")
    monkeypatch.setattr(train.pictures, "draw_samples", fail)
    results = train.run(config, tmp_path / "run")
    assert results["step"] == 12
    said = capsys.readouterr().err
    assert "run/samples.png: no picture: ValueError: Expected end of text" in said
    assert "teaching.png: no picture" not in said
