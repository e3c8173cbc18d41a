"""A check names every damage, and whatever `prepare` refuses; nothing else is an error."""

import re

import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data.check_pairs import load
from collabseg_jax.labels import IGNORE

from . import folders, test_benchmarks, trees
from .test_check_report import ROWS, check, counts


def damaged_camvid(root):
    """Ten pairs to train, each with a damage of its own or something unusual, and two to validate.

    Returns {number of the pair: what its label holds} of those that are legal.
    """
    trees.camvid(root, {"train": 10, "val": 2})
    images, labels = root / "train", root / "trainannot"
    truncated = images / "train_000.png"
    truncated.write_bytes(truncated.read_bytes()[:-500])
    (labels / "train_001.png").write_bytes(trees.encode(trees.indices(1).T.copy()))
    stray = trees.indices(2)
    stray[3, 7] = 77
    (labels / "train_002.png").write_bytes(trees.encode(stray))
    (labels / "train_003.png").write_bytes(folders.png_16_bit(trees.indices(3)))
    (labels / "train_004.png").write_bytes(folders.rgba_png(trees.picture(4)))
    (labels / "train_005.png").write_bytes(folders.palette_png(trees.indices(5)))
    (images / "train_006.png").rename(images / "train_006.jpg")
    (images / "train_006.jpg").write_bytes(folders.cmyk_jpeg(trees.picture(6)))
    (images / "train_007.jpg").write_bytes(folders.rotated_jpeg(trees.picture(7)))
    (labels / "train_008.png").unlink()
    (images / "train_009.png").write_bytes(b"")
    return {i: trees.indices(i) for i in (3, 5, 6, 7)}


def test_ten_damages_are_named_or_read_right(tmp_path):
    legal = damaged_camvid(tmp_path)
    checked = check("camvid", tmp_path)
    patterns = [
        r"^train/train_009\.png: 0 bytes, expected a \.png file$",
        r"^train/train_008\.JPEG: image without label, expected a label named train_008\.\* in "
        r"train and trainannot$",
        r"^train/train_000\.png: damaged PNG file \(.+\), expected a whole one$",
        r"^train/train_001\.jpg and trainannot/train_001\.png: image is 32x24 and label is 24x32 ",
        r"^trainannot/train_002\.png: label value 77 at row 3, column 7; expected for camvid: 0-11",
        r"^trainannot/train_004\.png: label has channels RGBA, expected one channel",
    ]
    errors = checked.report["errors"]
    assert len(errors) == len(patterns)
    for pattern, line in zip(patterns, errors, strict=True):
        assert re.search(pattern, line)
    assert checked.report["splits"]["train"]["pairs"] == 9  # all but the one without a label
    usable = [r for r in checked.readings["train"] if r.counts is not None]
    assert checked.report["splits"]["train"]["unusable"] == 9 - len(legal) == 9 - len(usable)
    for (seed, indices), one in zip(legal.items(), usable, strict=True):
        image, label = load(one, checked.spec)
        np.testing.assert_array_equal(label, np.where(indices == 11, IGNORE, indices))
        assert np.abs(image.astype(int) - trees.picture(seed)).mean() < 8
        assert one.counts[:11].tolist() == [(indices == i).sum() for i in range(11)]
    assert checked.report["splits"]["val"]["unusable"] == 0


def test_both_files_of_a_pair_are_told_of(tmp_path):
    trees.camvid(tmp_path, {"train": 2})
    (tmp_path / "train/train_000.png").write_bytes(b"not an image")
    (tmp_path / "trainannot/train_000.png").write_bytes(trees.encode(np.full(trees.SIZE, 99, "u1")))
    (tmp_path / "train/train_001.jpg").unlink()
    (tmp_path / "train/train_001.jpg").mkdir()
    lines = check("camvid", tmp_path).report["errors"]
    assert [line.split(":")[0] for line in lines] == [
        *("train/train_000.png", "trainannot/train_000.png", "train/train_001.jpg"),
    ]
    assert lines[2] == "train/train_001.jpg: cannot be read: Is a directory, expected a file"


def test_finders_tell_of_all_and_go_on(tmp_path):
    trees.camvid(tmp_path, {"train": 6, "val": 3, "test": 2})
    (tmp_path / "trainannot/train_001.png").unlink()
    (tmp_path / "trainannot/train_002.png").unlink()
    (tmp_path / "train/train_003.png").unlink()
    (tmp_path / "train/train_004.png").write_bytes(b"a second one of this name")
    (tmp_path / "trainannot/gone.png").symlink_to(tmp_path / "nowhere")
    test_benchmarks.remove("valannot")(tmp_path)
    report = check("camvid", tmp_path).report
    assert report["errors"] == [
        "train/train_004.png: shares its name with train_004.jpg, expected one file for train_004",
        "trainannot/gone.png: No such file or directory, expected a .png file",
        *(
            f"train/train_00{i}.{suffix}: image without label, expected a label named "
            f"train_00{i}.* in train and trainannot"
            for i, suffix in ((1, "jpg"), (2, "JPEG"))
        ),
        "trainannot/train_003.png: label without image, expected an image named train_003.* in "
        "train and trainannot",
        "valannot: no such folder, expected files .png in it",
    ]
    assert {split: row["pairs"] for split, row in report["splits"].items()} == {
        **{"train": 3, "val": 0, "test": 2},
    }


@pytest.mark.parametrize("name,damage,message", test_benchmarks.BAD)
def test_whatever_prepare_refuses_is_reported(name, damage, message, tmp_path):
    raw = getattr(trees, name)(tmp_path / "raw")
    damage(raw)
    errors = check(name, raw).report["errors"]
    message = message.removesuffix(".*and 1 more")
    assert len([line for line in errors if re.search(message, line)]) == 1
    assert len(set(errors)) == len(errors) and not any("\n" in line for line in errors)


def test_mixed_encodings_are_told_of_by_name(tmp_path):
    trees.cityscapes(tmp_path, kinds=("labelIds", "labelTrainIds"))
    test_benchmarks.remove(
        "gtFine/train/*/*0_gtFine_labelIds.png", "gtFine/val/*/*1_gtFine_labelTrainIds.png"
    )(tmp_path)
    report = check("cityscapes", tmp_path).report
    # Five of six have labelTrainIds: these are read, the sixth is named.
    assert report["errors"] == [
        "gtFine/val/frankfurt/frankfurt_000000_000001_gtFine_labelIds.png: without a "
        "*_gtFine_labelTrainIds.png next to it, while others have no *_gtFine_labelIds.png, "
        "expected one of the two kinds for all images"
    ]
    assert {split: row["pairs"] for split, row in report["splits"].items()} == {
        **{"train": 4, "val": 1},
    }
    assert counts(report, "train")["bicycle"] == (4 * ROWS, 4)  # train id 18, no label id here


def test_labels_of_a_folder(tmp_path):
    folders.folder(tmp_path)
    for name in ("val/a", "val/b"):
        (tmp_path / f"labels/{name}.png").rename(tmp_path / f"labels/{name}.jpg")
    (tmp_path / "classes.txt").write_text("road\nroad\n")
    report = check("folder", tmp_path).report
    assert report["splits"] == report["warnings"] == {}
    assert [line.split(":")[0] for line in report["errors"]] == [
        *("labels/val/a.jpg", "labels/val/b.jpg", "classes.txt, line 2"),
    ]


def test_a_damaged_copy_is_told_of(tmp_path):
    raw = trees.camvid(tmp_path / "raw", {"train": 3})
    data.prepare("camvid", raw_dir=str(raw), data_dir=str(tmp_path / "tfds"))
    [file] = (tmp_path / "tfds").glob("**/*train.array_record*")
    content = bytearray(file.read_bytes())
    content[100] ^= 255
    file.write_bytes(content)
    report = data.check("camvid", data_dir=str(tmp_path / "tfds")).report
    assert report["splits"]["train"]["unusable"] == 1
    [line] = report["errors"]
    assert re.match(r"record 0 of train in .+ cannot be read: .+; expected a whole copy", line)
