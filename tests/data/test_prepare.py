import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from collabseg_jax import data
from collabseg_jax.data import writing
from collabseg_jax.data.builders import camvid
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

from . import trees

REAL = Path(__file__).parents[2] / "../shared/data/CamVid"


@pytest.fixture
def raw(tmp_path):
    return trees.camvid(tmp_path / "raw")


def prepare(raw_dir, tmp_path, **options):
    return data.prepare("camvid", raw_dir=str(raw_dir), data_dir=str(tmp_path / "tfds"), **options)


def test_records_are_the_files_in_order(raw, tmp_path, capfd):
    prepared = prepare(raw, tmp_path)
    assert "preparing camvid train: 5 in" in capfd.readouterr().err
    assert prepared.spec is data.get_spec("camvid") and prepared.sizes == {"train": 5, "val": 3}
    source = prepared.source("train")
    assert [source[i]["name"] for i in range(len(source))] == [f"train_{i:03d}" for i in range(5)]
    for record in (source[i] for i in range(5)):
        [file] = (raw / "train").glob(record["name"] + ".*")
        assert record["image"] == file.read_bytes()
        assert record["label"] == (raw / "trainannot" / f"{record['name']}.png").read_bytes()
    assert source.image_sizes == [trees.SIZE] * 5


def test_the_second_time_is_silent_and_quick(raw, tmp_path, capfd):
    first = prepare(raw, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in Path(first.builder_dir).iterdir()}
    capfd.readouterr()
    start = time.monotonic()
    second = prepare(raw, tmp_path)
    assert time.monotonic() - start < 1
    assert capfd.readouterr() == ("", "")
    assert (second.fingerprint, second.builder_dir) == (first.fingerprint, first.builder_dir)
    assert before == {path: path.stat().st_mtime_ns for path in Path(first.builder_dir).iterdir()}


def test_many_shards_keep_the_order(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "EXAMPLES_PER_SHARD", 2)
    source = prepare(raw, tmp_path).source("train")
    assert [source[i]["name"] for i in range(len(source))] == [f"train_{i:03d}" for i in range(5)]


def test_a_split_that_is_not_there(raw, tmp_path):
    with pytest.raises(InputError, match="'camvid' has no split 'test' in .*; it has: train, val$"):
        prepare(raw, tmp_path).source("test")


def test_another_tree_never_reads_the_old_copy(raw, tmp_path):
    label = raw / "trainannot" / "train_001.png"
    pixels = trees.indices(1)
    label.write_bytes(trees.encode(pixels, compress_level=0))
    first = prepare(raw, tmp_path)
    # One pixel, the same number of bytes: only the checksums at the file's end tell.
    pixels[0, 0] = (pixels[0, 0] + 1) % 12
    edited = trees.encode(pixels, compress_level=0)
    assert len(edited) == label.stat().st_size
    times = label.stat()
    label.write_bytes(edited)
    os.utime(label, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = prepare(raw, tmp_path)
    assert second.fingerprint != first.fingerprint
    assert second.source("train")[1]["label"] == edited

    (raw / "val" / "val_002.JPEG").rename(raw / "val" / "val_999.JPEG")
    (raw / "valannot" / "val_002.png").rename(raw / "valannot" / "val_999.png")
    third = prepare(raw, tmp_path)
    assert third.source("val")[2]["name"] == "val_999"
    assert len({p.fingerprint for p in (first, second, third)}) == 3


def test_a_moved_tree_is_the_same_tree(raw, tmp_path, capfd):
    first = prepare(raw, tmp_path)
    capfd.readouterr()
    copy = Path(shutil.copytree(raw, tmp_path / "elsewhere"))
    (copy / "README").write_text("not part of the data")
    (copy / "train" / "._train_000.png").write_text("what macOS leaves behind")
    assert prepare(copy, tmp_path).builder_dir == first.builder_dir
    assert capfd.readouterr().err == ""


def test_without_raw_dir_the_only_copy_is_used(raw, tmp_path):
    with pytest.raises(InputError, match="no prepared camvid in .*give --config.data.raw_dir=PATH"):
        prepare("", tmp_path)
    first = prepare(raw, tmp_path)
    again = prepare("", tmp_path)
    assert again.fingerprint == first.fingerprint and again.sizes == first.sizes
    assert again.source("val")[0]["name"] == "val_000"

    other = trees.camvid(tmp_path / "other", {"train": 2})
    prepare(other, tmp_path)
    with pytest.raises(InputError, match="2 prepared copies of camvid") as error:
        prepare("", tmp_path)
    assert str(raw) in str(error.value) and str(other) in str(error.value)


def test_data_dir_from_the_environment(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    prepared = data.prepare("camvid", raw_dir=str(raw))
    assert prepared.builder_dir.startswith(str(tmp_path / "env"))


def test_a_data_dir_that_cannot_be_written(raw, tmp_path):
    (tmp_path / "tfds").write_text("a file")
    with pytest.raises(InputError, match="preparing camvid in .* failed: .*--config.data.dir=PATH"):
        prepare(raw, tmp_path)


def test_whatever_splits_exist(tmp_path):
    raw = trees.camvid(tmp_path / "raw", {"test": 2})
    assert prepare(raw, tmp_path).sizes == {"test": 2}


def break_nothing_there(raw):
    shutil.rmtree(raw)


def break_a_file(raw):
    shutil.rmtree(raw)
    raw.write_text("")


def break_empty(raw):
    shutil.rmtree(raw)
    raw.mkdir()


def break_no_split(raw):
    shutil.rmtree(raw)
    (raw / "CamVid").mkdir(parents=True)


def break_no_images(raw):
    for folder in ("val", "valannot"):
        shutil.rmtree(raw / folder)
        (raw / folder).mkdir()


@pytest.mark.parametrize(
    "damage,message",
    [
        (break_nothing_there, r"raw_dir=.*raw: found nothing there, expected the folder of camvid"),
        (break_a_file, r"raw_dir=.*raw: found a file, expected the folder of camvid"),
        (break_empty, r"raw: the folder is empty, expected camvid"),
        (break_no_split, r"found CamVid, expected a split folder of camvid"),
        (break_no_images, r"val and .*valannot: found no images, expected \.jpg"),
        (lambda raw: shutil.rmtree(raw / "valannot"), r"valannot: no such folder, expected"),
        (lambda raw: shutil.rmtree(raw / "val"), r"raw/val: no such folder, expected"),
        (
            lambda raw: (raw / "valannot" / "val_001.png").unlink(),
            r"val/val_001\.jpg: image without label, expected a label named val_001\.\* in",
        ),
        (
            lambda raw: [path.unlink() for path in (raw / "train").glob("train_00[13].*")],
            r"train_001\.png: label without image, expected .* \(and 1 more\)$",
        ),
        (
            lambda raw: (raw / "trainannot" / "train_003.png").write_bytes(b""),
            r"trainannot/train_003\.png: 0 bytes, expected a \.png file",
        ),
        (
            lambda raw: (raw / "train" / "train_000.jpg").write_bytes(b"x"),
            r"train_000\.png: shares its name with train_000\.jpg, expected one",
        ),
    ],
)
def test_raw_files_that_cannot_be_used(damage, message, raw, tmp_path):
    damage(raw)
    with pytest.raises(InputError, match=message) as error:
        prepare(raw, tmp_path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("tfds/**/dataset_info.json"))


def test_import_and_reading_are_light_and_quiet(raw, tmp_path):
    script = (
        "import sys, time; start = time.monotonic()\n"
        "from collabseg_jax import data\n"
        "seconds = time.monotonic() - start\n"
        "print(len(data.prepare('camvid', raw_dir=sys.argv[1], data_dir=sys.argv[2])"
        ".source('val')[0]))\n"
        "print(seconds < 3, {'jax', 'torch', 'tensorflow'} & set(sys.modules))\n"
    )
    prepare(raw, tmp_path)
    command = [sys.executable, "-c", script, str(raw), str(tmp_path / "tfds")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3\nTrue set()\n", "")


def test_shapes_need_no_raw_dir(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="data set 'shapes' is generated and takes no raw files"):
        data.prepare("shapes", raw_dir="x", data_dir=str(tmp_path))
    monkeypatch.setattr("collabseg_jax.data.builders.shapes.SPLIT_SIZES", {"train": 3, "val": 2})
    prepared = data.prepare("shapes", data_dir=str(tmp_path))
    assert prepared.sizes == {"train": 3, "val": 2} and prepared.fingerprint == "v1.0.0"
    assert set(prepared.source("val")[0]) == {"image", "label", "name"}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real CamVid is not here")
def test_the_real_camvid(tmp_path):
    pairs = camvid.CamVid.find_pairs(REAL)
    assert {split: len(members) for split, members in pairs.items()} == {"train": 367, "val": 101}
    prepared = prepare(REAL, tmp_path)
    batches = list(data.eval_batches(prepared.source("val"), prepared.spec, batch_size=8))
    assert sum(batch["valid"].sum() for batch in batches) == 101
    assert {batch["image"].shape for batch in batches} == {(8, 360, 480, 3)}
    labels = {int(value) for batch in batches for value in set(batch["label"].ravel())}
    assert labels == {*range(11), IGNORE}
