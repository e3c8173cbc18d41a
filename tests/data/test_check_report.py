"""The report on whole trees: what each set contains, worked out by hand, and every warning."""

import numpy as np
import PIL.Image
import pytest

from collabseg_jax import data
from collabseg_jax.data.builders import shapes

from . import folders, test_prepare, trees

PIXELS = trees.SIZE[0] * trees.SIZE[1]
ROWS = trees.SIZE[0]


def check(name, raw, **options):
    return data.check(name, raw_dir=str(raw), **options)


def counts(report, split):
    """{class: (pixels, images)} of the classes that occur."""
    rows = report["splits"][split]["classes"]
    return {n: (row["pixels"], row["images"]) for n, row in rows.items() if row["pixels"]}


# Name, options of the tree, {split: pairs}, {train id: columns of an image that hold it}, ignored
# columns; trees.RAW fills 32 columns of 24 pixels.
BY_HAND = [
    # 6 values: the first two fill six columns each, the others five; value 0 is ignored.
    ("ade20k", {}, {"train": 4, "val": 2}, {0: 6, 1: 5, 74: 5, 148: 5, 149: 5}, 6),
    # 27 values, 0 to 4 fill two columns each: of the scored ones 7, 8, 11 to 13, 17, 19 to 25, one.
    ("cityscapes", {}, {"train": 4, "val": 2}, dict.fromkeys(range(13), 1), 19),
    (
        "cityscapes",
        {"kinds": ("labelTrainIds",)},  # 20 values, the first 12 fill two columns each
        {"train": 4, "val": 2},
        {i: 2 if i < 12 else 1 for i in range(19)},
        1,
    ),
    ("pascal_voc", {}, {"train": 3, "val": 2}, {0: 7, 1: 7, 15: 6, 20: 6}, 6),
]


@pytest.mark.parametrize("name,options,sizes,columns,ignored", BY_HAND)
def test_what_is_in_each_set(name, options, sizes, columns, ignored, tmp_path, capfd):
    report = check(name, getattr(trees, name)(tmp_path / "raw", **options)).report
    assert report["errors"] == [] and report["data_set"] == name
    assert report["where"] == str(tmp_path / "raw")
    classes = data.get_spec(name).classes
    assert {split: row["pairs"] for split, row in report["splits"].items()} == sizes
    for split, count in sizes.items():
        row = report["splits"][split]
        assert row["pixels"] == count * PIXELS and row["unusable"] == 0
        assert row["ignored"] == ignored / 32
        expected = {classes[i]: (count * n * ROWS, count) for i, n in columns.items()}
        assert counts(report, split) == expected
        for i, n in columns.items():
            assert row["classes"][classes[i]]["share"] == pytest.approx(n / (32 - ignored))
        assert row["sizes"]["commonest"] == {"32x24": count}
    absent = [c for i, c in enumerate(classes) if i not in columns]
    assert report["warnings"].get("classes_not_in_training", []) == absent
    assert f"checking {name} train: {sizes['train']} in" in capfd.readouterr().err
    assert not list(tmp_path.glob("**/dataset_info.json"))  # nothing was prepared


def test_what_is_in_a_folder(tmp_path):
    report = check("folder", folders.folder(tmp_path)).report
    assert report["errors"] == []
    # A quarter of every label is ignored and one is of each class.
    quarters = {"train": (450, 450, 320, 400, 576, 324, 600), "val": (500, 510)}
    for split, pixels in quarters.items():
        row = report["splits"][split]
        assert row["pairs"] == len(pixels) and row["ignored"] == 0.25
        assert counts(report, split) == {n: (sum(pixels), len(pixels)) for n in folders.NAMES}
    assert report["splits"]["train"]["sizes"] == {
        "distinct": 7,
        "smallest": "40x32",
        "median": "50x36",
        "largest": "40x60",
        "commonest": dict.fromkeys(("36x50", "50x36", "40x32", "40x40", "36x64"), 1),
    }


def test_camvid_and_its_prepared_copy(tmp_path):
    raw = trees.camvid(tmp_path / "raw")
    report = check("camvid", raw).report
    labels = {"train": range(5), "val": range(3)}
    for split, seeds in labels.items():
        stacked = np.stack([trees.indices(i) for i in seeds])  # 11 is ignored
        assert report["splits"][split]["ignored"] == (stacked == 11).sum() / stacked.size
        for value, name in enumerate(data.get_spec("camvid").classes):
            row = report["splits"][split]["classes"][name]
            there = stacked == value
            assert row["pixels"] == there.sum() and row["images"] == there.any((1, 2)).sum()
    # The tree gives both splits the same pictures.
    repeats = [f"train/train_00{i}{s}, val/val_00{i}{s}" for i, s in enumerate(SUFFIXES)]
    assert report["warnings"]["repeats_across_splits"] == repeats

    data.prepare("camvid", raw_dir=str(raw), data_dir=str(tmp_path / "tfds"))
    copy = data.check("camvid", data_dir=str(tmp_path / "tfds")).report
    assert copy["splits"] == report["splits"] and copy["where"].startswith(str(tmp_path / "tfds"))
    assert copy["warnings"]["repeats_across_splits"][0] == (
        "train train_000 (image), val val_000 (image)"
    )


SUFFIXES = (".png", ".jpg", ".JPEG")


def test_shapes_are_checked_as_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLIT_SIZES", {"train": 3, "val": 2})
    report = data.check("shapes", data_dir=str(tmp_path)).report
    for split, count in shapes.SPLIT_SIZES.items():
        drawn = np.stack([shapes.scene(split, i)[1] for i in range(count)])
        for value, name in enumerate(shapes.CLASSES):
            assert counts(report, split).get(name, (0,))[0] == (drawn == value).sum()
    assert report["errors"] == [] and not report["warnings"].keys() - {"classes_not_in_training"}


def test_what_is_suspicious(tmp_path):
    def pair(split, name, seed, label):
        trees.write(tmp_path / split / f"{name}.png", trees.encode(trees.picture(seed)))
        trees.write(tmp_path / f"{split}annot" / f"{name}.png", trees.encode(label))

    half = trees.columns(range(8))
    spot = np.zeros(trees.SIZE, np.uint8)  # 768 pixels: 99 % are 761
    spot[0, :7] = 5
    more = spot.copy()
    more[1, 0] = 5
    pair("train", "a", 0, half)
    pair("train", "b", 0, half)
    pair("train", "c", 1, spot)
    pair("train", "d", 2, more)
    pair("val", "e", 1, np.full(trees.SIZE, 11, np.uint8))
    pair("val", "f", 3, trees.columns([1, 8]))
    pair("val", "g", 1, half)
    trees.write(tmp_path / "train/small.png", trees.encode(trees.picture(9, (24, 31))))
    trees.write(tmp_path / "trainannot/small.png", trees.encode(half[:, :31].copy()))
    report = check("camvid", tmp_path, needed=("train", "test"), crop=trees.SIZE).report
    assert report["errors"] == []
    assert report["warnings"] == {
        "missing_splits": ["test"],
        "classes_not_in_training": [
            *("car, which 1 images of val show", "pedestrian", "bicyclist"),
        ],
        "repeats_across_splits": ["train/c.png, val/e.png, val/g.png"],
        "repeats_within_split": ["train/a.png, train/b.png"],
        "near_empty_labels": [
            *("trainannot/c.png: 99.1% sky", "valannot/e.png: 100.0% ignored"),
        ],
        "smaller_than_crop": ["train/small.png: 31x24, the crop is 32x24 (width x height)"],
    }


@pytest.mark.skipif(not test_prepare.REAL.is_dir(), reason="the real CamVid is not here")
def test_the_real_camvid(tmp_path):
    real = test_prepare.REAL.resolve()
    report = check("camvid", real).report
    assert report["errors"] == [] and report["warnings"] == {}
    assert [report["splits"][s]["pairs"] for s in ("train", "val")] == [367, 101]
    labels = [np.asarray(PIL.Image.open(p)) for p in sorted((real / "valannot").glob("*.png"))]
    total = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=12)
    rows = report["splits"]["val"]["classes"]
    assert [row["pixels"] for row in rows.values()] == total[:11].tolist() and len(rows) == 11
    assert [row["images"] for row in rows.values()] == [
        sum(bool((label == i).any()) for label in labels) for i in range(11)
    ]
    assert report["splits"]["val"]["ignored"] == pytest.approx(total[11] / total.sum())
