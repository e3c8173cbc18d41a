"""ADE20K, Cityscapes, PASCAL VOC from miniature trees: each pixel's class, sizes, refusals."""

import shutil

import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data import decode
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

from . import trees

X = IGNORE
# What must come out of the columns of trees.RAW, worked out by hand.
TRAIN_IDS = {
    "ade20k": (X, 0, 1, 74, 148, 149),
    # 0 to 6 are void; 9, 10, 14, 15, 16, 18 are not scored; 255 is a license plate.
    "labelIds": (
        *(X, X, X, X, X, X, X),
        *(0, 1, X, X, 2, 3, 4, X, X, X, 5, X, 6, 7, 8, 9, 10, 11, 12),
        X,
    ),
    "labelTrainIds": (*range(19), X),
    "pascal_voc": (0, 1, 15, 20, X),
    "SegmentationClassAug": (0, 1, 15, 20),
}


def prepare(name, raw_dir, tmp_path):
    return data.prepare(name, raw_dir=str(raw_dir), data_dir=str(tmp_path / "tfds"))


def names(prepared, split):
    source = prepared.source(split)
    return [source[i]["name"] for i in range(len(source))]


def check_pixels(prepared, split, index, expected):
    """Every pixel of one label, through the records and the spec of the copy."""
    label = decode.decode_record(prepared.source(split)[index], prepared.spec)["label"]
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, trees.columns(expected))


def test_ade20k(tmp_path):
    prepared = prepare("ade20k", trees.ade20k(tmp_path / "ADEChallengeData2016"), tmp_path)
    assert prepared.sizes == {"train": 4, "val": 2}
    assert names(prepared, "val") == ["ADE_val_00000001", "ADE_val_00000002"]
    for split, size in prepared.sizes.items():
        for i in range(size):
            check_pixels(prepared, split, i, TRAIN_IDS["ade20k"])


def test_ade20k_is_shifted_once():
    """All 151 values; 255, which only a label that was shifted before has, is refused."""
    spec = data.get_spec("ade20k")
    raw = np.arange(151, dtype=np.uint8)[None]
    assert decode.decode_label(trees.encode(raw), spec)[0].tolist() == [IGNORE, *range(150)]
    shifted = trees.encode(decode.decode_label(trees.encode(raw), spec))
    with pytest.raises(InputError, match="label value 255 at row 0.*expected for ade20k: 0-150"):
        decode.decode_label(shifted, spec)


@pytest.mark.parametrize(
    "kinds,used",
    [
        (("labelIds",), "labelIds"),
        (("labelTrainIds",), "labelTrainIds"),
        (("labelIds", "labelTrainIds"), "labelTrainIds"),
    ],
)
def test_cityscapes(tmp_path, capfd, kinds, used):
    raw = trees.cityscapes(tmp_path / "raw", kinds=kinds)
    prepared = prepare("cityscapes", raw, tmp_path)
    assert f"cityscapes: labels are *_gtFine_{used}.png" in capfd.readouterr().err
    assert prepared.sizes == {"train": 4, "val": 2}
    assert names(prepared, "train") == [
        *("aachen_000000_000000", "aachen_000000_000001"),
        *("bochum_000000_000000", "bochum_000000_000001"),
    ]
    check_pixels(prepared, "train", 3, TRAIN_IDS[used])
    check_pixels(prepared, "val", 0, TRAIN_IDS[used])
    again = prepare("cityscapes", "", tmp_path)  # without the files, from the copy alone
    check_pixels(again, "val", 1, TRAIN_IDS[used])
    assert capfd.readouterr().err == ""


def test_cityscapes_ids_are_those_of_the_evaluation_server():
    spec = data.get_spec("cityscapes")
    scored = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert spec.label_lut[scored].tolist() == list(range(19))
    assert np.flatnonzero(spec.label_lut < IGNORE).tolist() == scored
    assert np.flatnonzero(spec.label_allowed).tolist() == [*range(34), 255]


def test_cityscapes_with_some_train_ids_only_is_read_by_ids(tmp_path):
    """As after a conversion that was interrupted."""
    raw = trees.cityscapes(tmp_path / "raw", kinds=("labelIds", "labelTrainIds"))
    next(raw.glob("gtFine/val/*/*_labelTrainIds.png")).unlink()
    prepared = prepare("cityscapes", raw, tmp_path)
    check_pixels(prepared, "train", 0, TRAIN_IDS["labelIds"])


@pytest.mark.parametrize("part", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_pascal_voc(tmp_path, part):
    raw = trees.pascal_voc(tmp_path / "raw")
    prepared = prepare("pascal_voc", raw / part, tmp_path)
    assert prepared.sizes == {"train": 3, "val": 2}
    assert names(prepared, "train") == ["2007_000000", "2007_000001", "2007_000002"]
    for split, i in (("train", 0), ("train", 2), ("val", 1)):
        check_pixels(prepared, split, i, TRAIN_IDS["pascal_voc"])
    # The same files are the same copy, whichever folder is named.
    assert prepare("pascal_voc", raw, tmp_path).builder_dir == prepared.builder_dir


@pytest.mark.parametrize("trainaug", [True, False])
def test_pascal_voc_augmented(tmp_path, trainaug):
    raw = trees.pascal_voc(tmp_path / "raw", augmented=True, trainaug=trainaug)
    prepared = prepare("pascal_voc", raw, tmp_path)
    assert prepared.sizes == {"train": 5, "val": 2}
    assert names(prepared, "train") == [f"2007_{i:06d}" for i in (0, 1, 2, 5, 6)]
    check_pixels(prepared, "train", 1, TRAIN_IDS["pascal_voc"])  # both have it; 255 on borders
    check_pixels(prepared, "train", 4, TRAIN_IDS["SegmentationClassAug"])
    check_pixels(prepared, "val", 0, TRAIN_IDS["pascal_voc"])


def test_pascal_voc_lists_of_paths(tmp_path):
    raw = trees.pascal_voc(tmp_path / "raw", augmented=True)
    path = raw / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in path.read_text().split()]
    path.write_text("\n".join(lines))
    assert prepare("pascal_voc", raw, tmp_path).sizes == {"train": 5, "val": 2}


def test_pascal_voc_palette_is_the_devkits():
    spec = data.get_spec("pascal_voc")
    assert list(spec.palette) == [trees.voc_colour(i) for i in range(21)]


def remove(*patterns):
    def damage(raw):
        for pattern in patterns:
            for path in [raw / pattern] if (raw / pattern).exists() else [*raw.glob(pattern)]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def write(path, content):
    return lambda raw: (raw / path).write_bytes(content)


def empty_folders(*folders):
    def damage(raw):
        for folder in folders:
            shutil.rmtree(raw / folder)
            (raw / folder).mkdir()

    return damage


VOC = "VOCdevkit/VOC2012"
LISTS = f"{VOC}/ImageSets/Segmentation"
BAD = [
    ("ade20k", remove("images", "annotations"), "raw: the folder is empty, expected ade20k"),
    (
        "ade20k",
        lambda raw: (remove("images", "annotations")(raw), (raw / "index.mat").write_text("x")),
        "raw_dir=.*raw: found index.mat, expected a split folder of ade20k .ADEChallengeData2016",
    ),
    ("ade20k", remove("annotations/training"), "annotations/training: no such folder, expected"),
    (
        "ade20k",
        remove("annotations/validation/ADE_val_00000002.png"),
        "ADE_val_00000002.jpg: image without label, expected a label named ADE_val_00000002",
    ),
    (
        "ade20k",
        empty_folders("images/validation", "annotations/validation"),
        "images/validation and .*annotations/validation: found no images, expected",
    ),
    (
        "cityscapes",
        remove("leftImg8bit", "gtFine/train", "gtFine/val"),
        "raw_dir=.*raw: found gtFine, expected leftImg8bit and gtFine of cityscapes",
    ),
    ("cityscapes", remove("gtFine"), "gtFine/train: no such folder, expected a folder for each"),
    ("cityscapes", remove("leftImg8bit/val"), "leftImg8bit/val: no such folder, expected a folder"),
    (
        "cityscapes",
        remove("gtFine/train/bochum/*1_gtFine_labelIds.png"),
        "bochum_000000_000001_leftImg8bit.png: image without label, expected a label named "
        "bochum_000000_000001_gtFine_labelIds.png in",
    ),
    (
        "cityscapes",
        remove("leftImg8bit/train/bochum/*"),
        "bochum_000000_000000_gtFine_labelIds.png: label without image, expected an image named "
        "bochum_000000_000000_leftImg8bit.png in .*and 1 more",
    ),
    (
        "cityscapes",
        empty_folders("leftImg8bit/val", "gtFine/val"),
        "leftImg8bit/val and .*gtFine/val: found no images",
    ),
    (
        "cityscapes",
        lambda raw: next(raw.glob("gtFine/val/*/*1_gtFine_labelIds.png")).rename(
            raw / "gtFine/val/frankfurt/frankfurt_000000_000001_gtFine_labelTrainIds.png"
        ),
        "frankfurt_000000_000001_gtFine_labelTrainIds.png: without a ._gtFine_labelIds.png next to "
        "it, .*expected one of the two kinds for all images",
    ),
    (
        "pascal_voc",
        lambda raw: (raw / LISTS).rename(raw / VOC / "ImageSets/Main"),
        "raw_dir=.*raw: found VOCdevkit, expected ImageSets/Segmentation of pascal_voc",
    ),
    ("pascal_voc", remove(f"{VOC}/JPEGImages"), "VOC2012/JPEGImages: no such folder, expected"),
    ("pascal_voc", remove(f"{VOC}/SegmentationClass"), "SegmentationClass: no such folder"),
    ("pascal_voc", remove(f"{LISTS}/val.txt"), "val.txt: no such file, expected a list of images"),
    ("pascal_voc", write(f"{LISTS}/train.txt", b"\n"), "train.txt: names no image, expected one"),
    (
        "pascal_voc",
        remove(f"{VOC}/JPEGImages/2007_000004.jpg"),
        "val.txt: names 2007_000004, which has no image, expected JPEGImages/2007_000004.jpg",
    ),
    (
        "pascal_voc",
        remove(f"{VOC}/SegmentationClass/2007_00000[12].png"),
        "train.txt: names 2007_000001, which has no label, expected "
        "SegmentationClass/2007_000001.png .*and 1 more",
    ),
    (
        "pascal_voc",
        lambda raw: (raw / VOC / "SegmentationClassAug").mkdir(),
        "SegmentationClassAug: found no labels, expected .png files",
    ),
    (
        "pascal_voc",
        lambda raw: trees.write(raw / VOC / "SegmentationClassAug/2011_000001.png", b"x"),
        "SegmentationClassAug: names 2011_000001, which has no image, expected JPEGImages/2011",
    ),
]


@pytest.mark.parametrize("name,damage,message", BAD)
def test_raw_files_that_cannot_be_used(name, damage, message, tmp_path):
    raw = getattr(trees, name)(tmp_path / "raw")
    damage(raw)
    with pytest.raises(InputError, match=message) as error:
        prepare(name, raw, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("tfds/**/dataset_info.json"))
