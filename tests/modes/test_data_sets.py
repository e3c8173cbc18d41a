"""Whole runs on miniature trees of the benchmarks: prepare, train, evaluate, draw."""

import json

import pytest

from collabseg_jax import data
from tests import tiny
from tests.data import trees

TREES = {
    "ade20k": lambda root: trees.ade20k(root),
    "cityscapes": lambda root: trees.cityscapes(root, kinds=("labelTrainIds",)),
    "pascal_voc": lambda root: trees.pascal_voc(root, augmented=True),
}
# The classes of trees.RAW: the only ones that a label or a score may know of.
PRESENT = {
    "ade20k": {0, 1, 74, 148, 149},
    "cityscapes": set(range(19)),
    "pascal_voc": {0, 1, 15, 20},
}


@pytest.mark.parametrize("name", TREES)
def test_train_and_evaluate(name, tmp_path, train_tiny, tiny_models):
    raw = TREES[name](tmp_path / "raw")
    config = tiny.make_config(tmp_path / "tfds", **{"data.name": name, "data.raw_dir": str(raw)})
    config.steps, config.batch_size, config.eval.every = 2, 4, 0
    for loss in ("hfd", "bsd_region", "bsd_pixel"):  # quicker to compile; no data set knows them
        config.losses[loss].weight = 0.0
    workdir = train_tiny(config)
    results = json.loads((workdir / "results.json").read_text())
    spec = data.get_spec(name)
    for student in ("cnn", "vit", "ensemble"):
        assert list(results[student]["iou"]) == list(spec.classes)
        scored = {i for i, v in enumerate(results[student]["iou"].values()) if v is not None}
        assert PRESENT[name] <= scored  # others only as wrong predictions
    assert (workdir / "samples.png").exists()
