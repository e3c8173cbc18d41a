"""One's own pictures from a folder to exported students, after which the folder is not needed."""

import json
import shutil

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

import collabseg_jax
from collabseg_jax.errors import InputError
from collabseg_jax.modes import describe, evaluate, export, predict, train
from tests import tiny
from tests.data import folders, trees

pytestmark = pytest.mark.usefixtures("tiny_models")


@pytest.fixture(scope="module")
def finished(train_tiny, tmp_path_factory):
    """(workdir, config) of a short run; tests must not need the raw folder unless they make it."""
    root = tmp_path_factory.mktemp("own")
    raw = folders.folder(root / "raw")
    overrides = {"data.name": "folder", "data.raw_dir": str(raw), "steps": 3, "eval.every": 0}
    config = tiny.make_config(root / "tfds", **overrides)
    workdir = train_tiny(config)
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny.install(monkeypatch)
        evaluate.run(config, workdir)
    shutil.rmtree(raw)
    return workdir, config


def test_training_and_evaluation_know_the_classes(finished):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results["step"] == 3
    assert tuple(results["cnn"]["iou"]) == folders.NAMES
    assert json.loads((workdir / "eval_val.json").read_text()) == results
    record = json.loads((workdir / "config.json").read_text())["spec"]
    assert record["name"] == "folder" and tuple(record["classes"]) == folders.NAMES
    assert record["palette"] == ["#804080", "#008000", "#400080"]


def test_prediction_needs_no_data(finished, tmp_path):
    workdir, config = finished
    Image.fromarray(trees.picture(0, (40, 60))).save(tmp_path / "new.png")
    config = config.copy_and_resolve_references()
    config.predict.images, config.predict.student = str(tmp_path / "*.png"), "vit"
    predict.run(config, workdir)
    written = Image.open(workdir / "predictions" / "new.png")
    assert written.getpalette()[:9] == [128, 64, 128, 0, 128, 0, 64, 0, 128]
    segment = collabseg_jax.load(workdir, "vit")
    np.testing.assert_array_equal(segment(trees.picture(0, (40, 60))), np.asarray(written))


def test_export_needs_no_data(finished):
    workdir, config = finished
    config = config.copy_and_resolve_references()
    config.export.format, config.export.student = "stablehlo", "cnn"
    export.run(config, workdir)
    folder = workdir / "export" / "cnn_stablehlo"
    assert json.loads((folder / "labels.json").read_text())["classes"] == list(folders.NAMES)
    exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    assert np.asarray(exported.call(trees.picture(0, (64, 96))[None])).shape[-1] == 3


def test_evaluation_of_other_pictures_wants_the_same_classes(finished, tmp_path):
    workdir, config = finished
    config = config.copy_and_resolve_references()
    config.data.raw_dir = str(folders.folder(tmp_path / "a"))
    evaluate.run(config, workdir)
    other = folders.CLASSES.replace("car", "bus")
    config.data.raw_dir = str(folders.folder(tmp_path / "b", other))
    with pytest.raises(InputError, match=r"class 2 of the data in .* is 'bus', expected 'car'"):
        evaluate.run(config, workdir)
    with pytest.raises(InputError, match="was trained on data .*give another --workdir"):
        train.run(config, workdir)


def test_describe_reads_the_classes(tmp_path):
    config = tiny.make_config(tmp_path / "tfds", **{"data.name": "folder"})
    config.describe.size = (64, 64)
    with pytest.raises(InputError, match=r"give --config\.data\.raw_dir=PATH"):
        describe.text(config)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    config.data.raw_dir = str(tmp_path)
    assert describe.text(config).startswith("folder: 2 classes.")
