"""The data set `folder`: its tree and its classes.txt, right and wrong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data import decode
from collabseg_jax.data.builders.folder import Folder, parse_classes
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

from . import folders, trees

SPEC = parse_classes(folders.CLASSES, "classes.txt")


@pytest.fixture
def raw(tmp_path):
    return folders.folder(tmp_path / "raw")


def prepare(raw_dir, tmp_path):
    return data.prepare("folder", raw_dir=str(raw_dir), data_dir=str(tmp_path / "tfds"))


def test_every_encoding_gives_the_ids_worked_out_by_hand(raw, tmp_path):
    prepared = prepare(raw, tmp_path)
    assert prepared.spec == SPEC and prepared.sizes == {"train": 7, "val": 2}
    seen = []
    for split in ("train", "val"):
        source = prepared.source(split)
        for i, size in enumerate(source.image_sizes):
            record = source[i]
            seen.append(record["name"])
            expected_size, _, _, (_, ids), _ = folders.RECORDS[record["name"]]
            example = decode.decode_record(record, prepared.spec)
            assert size == example["label"].shape == expected_size
            assert example["label"].dtype == np.uint8
            np.testing.assert_array_equal(example["label"], folders.enlarge(ids, size))
            seed = list(folders.RECORDS).index(record["name"])
            difference = example["image"].astype(int) - trees.picture(seed, size)
            assert np.abs(difference).mean() < 8  # JPEG; another picture is at 60 or so
    assert sorted(seen) == sorted(folders.RECORDS)


def test_linked_folders_count_at_any_depth(raw, tmp_path):
    """And a link to a folder that it lies in adds nothing."""
    for side in ("images", "labels"):
        there = tmp_path / "elsewhere" / side
        (there / "deep").mkdir(parents=True)
        suffix = ".jpg" if side == "images" else ".png"
        name = next((raw / side / "val").rglob(f"*{suffix}"))
        shutil.copy(name, there / "deep" / f"new{suffix}")
        (raw / side / "val" / "linked").symlink_to(there)
        (there / "around").symlink_to(raw / side / "val")
    pairs = Folder.find_pairs(raw)["val"]
    names = [pair.name for pair in pairs]
    assert "val/linked/deep/new" in names
    assert len(names) == 3


def test_a_name_that_is_no_utf8_is_named(raw):
    for side in ("images", "labels"):
        (raw / side / "train" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(InputError, match=r"caf.udce9\.png.*no UTF-8"):
        Folder.find_pairs(raw)


def test_what_classes_txt_says():
    assert SPEC.classes == folders.NAMES
    assert SPEC.palette == ((128, 64, 128), (0, 128, 0), (64, 0, 128))
    assert SPEC.label_values == {0: 0, 1: 1, 2: 2, 9: IGNORE, 255: IGNORE}
    assert SPEC.label_colors == {
        (128, 64, 128): 0,
        (0, 128, 0): 1,
        (64, 0, 128): 2,
        (0, 0, 0): IGNORE,
    }


def test_what_windows_writes_is_read(tmp_path):
    (tmp_path / "classes.txt").write_bytes("a\r\n\r\n  b\tc 1 2 3 \r\n".encode("utf-8-sig"))
    spec = data.get_spec("folder", raw_dir=str(tmp_path))
    assert spec.classes == ("a", "b c") and spec.palette[1] == (1, 2, 3)


def test_an_index_ignored_above_the_classes_is_left_out():
    spec = parse_classes("ignore 0\nroad\nignore 2\nsky\n", "x")
    assert spec.label_values == {0: IGNORE, 1: 0, 2: IGNORE, 3: 1, 255: IGNORE}
    assert spec.official_values == (1, 3)


def test_classes_without_colours_get_distinct_ones():
    text = "\n".join(f"class_{i}" for i in range(255))
    palette = parse_classes(text, "x").palette
    assert len(set(palette)) == 255
    assert palette[:5] == parse_classes("a\nb\nc\nd\ne", "x").palette
    mixed = parse_classes("a\nb 255 0 0\nc\nignore 0 255 0", "x")
    assert mixed.palette[1] == (255, 0, 0) and mixed.label_colors == {}
    apart = np.array([*mixed.palette, (0, 255, 0)])
    distances = np.linalg.norm(apart[:, None] - apart, axis=-1) + 1000 * np.eye(4)
    assert distances.min() > 150


@pytest.mark.parametrize(
    "text,message",
    [
        ("", r"^x: no classes, expected at least two"),
        ("person\nignore 7", r"^x: only the class 'person', expected at least two"),
        ("# road\n\nignore 0\n", r"^x: no classes"),
        ("a\nb\na 1 2 3", r"^x, line 3: the name 'a' is that of 'a' \(line 1\), expected it only"),
        ("a 1 2 3\nb 1 2 3", r"^x, line 2: the colour \(1, 2, 3\) is that of 'a' \(line 1\)"),
        ("a 1 2 3\nignore 1 2 3", r"^x, line 2: the colour \(1, 2, 3\) is that of 'a' \(line 1\)"),
        ("a\n\nignore 0", r"line 3: the index 0 is that of 'a' \(line 1\).*above the classes"),
        ("a 1 2", r"^x, line 1: found 'a 1 2', expected NAME or NAME R G B"),
        ("a 1 2 3 4", r"^x, line 1: found 'a 1 2 3 4', expected NAME or NAME R G B"),
        ("a 128,64,0", r"line 1: found 'a 128,64,0', expected NAME or NAME R G B"),
        ("a\n1 2 3", r"line 2: found '1 2 3', expected NAME or NAME R G B"),
        ("a 1 2 256", r"line 1: found 'a 1 2 256', expected numbers in 0\.\.255"),
        ("a -1 2 6", r"line 1: found 'a -1 2 6', expected numbers in 0\.\.255"),
        ("a\nignore", r"line 2: found 'ignore', expected .*ignore R G B or ignore N"),
        ("a\nignore 1 2", r"line 2: found 'ignore 1 2', expected .*ignore R G B or ignore N"),
        ("a\nignore 256", r"line 2: found 'ignore 256', expected numbers in 0\.\.255"),
        (
            "\n".join(f"c{i}x" for i in range(256)),
            r"line 256: no index is left for 'c255x', expected at most 255",
        ),
    ],
)
def test_a_classes_txt_that_cannot_be_used(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_classes(text, "x")
    assert "\n" not in str(error.value)


def test_a_spec_survives_json():
    for spec in (SPEC, data.get_spec("camvid"), data.get_spec("shapes")):
        assert data.DatasetSpec.from_record(json.loads(json.dumps(spec.to_record()))) == spec


def test_classes_txt_is_part_of_the_data(raw, tmp_path):
    first = prepare(raw, tmp_path)
    # The same number of bytes, and the same at the end.
    (raw / "classes.txt").write_text(folders.CLASSES.replace("road", "lane"))
    second = prepare(raw, tmp_path)
    assert second.spec.classes == ("lane", "tall tree", "car")
    assert second.fingerprint != first.fingerprint
    with pytest.raises(InputError, match="2 prepared copies of folder"):
        data.get_spec("folder", data_dir=str(tmp_path / "tfds"))


def test_a_copy_knows_its_classes(raw, tmp_path):
    prepare(raw, tmp_path)
    shutil.rmtree(raw)
    assert prepare("", tmp_path).spec == SPEC
    assert data.get_spec("folder", data_dir=str(tmp_path / "tfds")) == SPEC


def test_a_copy_that_lost_its_classes(raw, tmp_path):
    (Path(prepare(raw, tmp_path).builder_dir) / "metadata.json").unlink()
    assert prepare(raw, tmp_path).spec == SPEC  # by the raw files
    with pytest.raises(InputError, match=r"metadata\.json: has no 'spec' .*; give --config"):
        prepare("", tmp_path)


def test_classes_need_a_folder(tmp_path):
    with pytest.raises(InputError, match="no prepared folder in .*: give --config.data.raw_dir"):
        data.get_spec("folder", data_dir=str(tmp_path))


def rename(raw, old, new):
    (raw / new).parent.mkdir(parents=True, exist_ok=True)
    (raw / old).rename(raw / new)


@pytest.mark.parametrize(
    "damage,message",
    [
        (shutil.rmtree, r"raw: found nothing there, expected the folder of folder \(own pictures"),
        (
            lambda raw: (raw / "classes.txt").unlink(),
            r"classes\.txt: No such file or directory; expected one class a line",
        ),
        (
            lambda raw: (raw / "classes.txt").write_bytes("Straße".encode("latin-1")),
            r"classes\.txt: byte 4 is no UTF-8",
        ),
        (
            lambda raw: (raw / "classes.txt").write_text("a\nb\na"),
            r"raw/classes\.txt, line 3: the name 'a'",
        ),
        (
            lambda raw: [rename(raw, kind, f"all/{kind}") for kind in ("images", "labels")],
            r"found all, classes\.txt, expected images/train and labels/train",
        ),
        (lambda raw: shutil.rmtree(raw / "labels/val"), r"labels/val: no such folder"),
        (
            lambda raw: rename(raw, "labels/train/day 1/rgb.png", "labels/train/rgb.png"),
            r"rgb\.tif: image without label, expected a label named day 1/rgb\.\* in",
        ),
        (
            lambda raw: rename(raw, "labels/val/a.png", "labels/val/a.jpg"),
            r"labels/val/a\.jpg: a label, expected PNG",
        ),
    ],
)
def test_a_folder_that_cannot_be_used(damage, message, raw, tmp_path):
    damage(raw)
    with pytest.raises(InputError, match=message) as error:
        prepare(raw, tmp_path)
    assert "\n" not in str(error.value)


def test_a_bad_pixel_is_named_with_its_file(raw, tmp_path):
    pixels = folders.enlarge(folders.COLORS[0], (64, 36))
    pixels[2, 5] = (64, 0, 129)
    (raw / "labels/train/day 1/rgb.png").write_bytes(trees.encode(pixels))
    source = prepare(raw, tmp_path).source("train")
    message = r"^folder train/day 1/rgb \(label\): label colour \(64, 0, 129\) at row 2, column 5"
    with pytest.raises(InputError, match=message):
        for record in (source[i] for i in range(len(source))):
            decode.decode_record(record, SPEC)
