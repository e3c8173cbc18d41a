"""A preparation that was ended continues; what was written is read back; a copy can be verified."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collabseg_jax import data
from collabseg_jax.data import prepared, writing
from collabseg_jax.data.builders import base
from collabseg_jax.errors import InputError
from tests import processes

from . import damages, trees

BEGINNING = """
import os, signal, subprocess, sys
from collabseg_jax import data, errors
from collabseg_jax.data import writing
from collabseg_jax.data.builders import base
writing.EXAMPLES_PER_SHARD = 2
raw, place = sys.argv[1:]
def prepare(): return data.prepare("camvid", raw_dir=raw, data_dir=place)
"""


@pytest.fixture
def raw(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "EXAMPLES_PER_SHARD", 2)
    return trees.camvid(tmp_path / "raw")  # 5 to train in 3 shards, 3 to validate in 2


def prepare(raw, **options):
    place = str(raw.parent / "tfds")
    return data.prepare("camvid", raw_dir=str(raw), data_dir=place, **options)


def assert_holds_the_files(copy, raw):
    for split, count in (("train", 5), ("val", 3)):
        source = copy.source(split)
        assert len(source) == count
        for i in range(count):
            name = f"{split}_{i:03d}"
            [image] = (raw / split).glob(f"{name}.*")
            label = raw / f"{split}annot" / f"{name}.png"
            expected = {"image": image.read_bytes(), "label": label.read_bytes(), "name": name}
            assert source[i] == expected


def folders(raw):
    return {path.name for path in raw.parent.glob("tfds/camvid/*/*") if path.is_dir()}


def interrupt(raw, monkeypatch, at="train_004"):
    """A preparation that Ctrl-C ends when it comes to a record; its folder."""
    read = base._read

    def stop(pair):
        if pair.name == at:
            raise KeyboardInterrupt
        return read(pair)

    with monkeypatch.context() as patch:
        patch.setattr(base, "_read", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(raw)
    [partial] = raw.parent.glob("tfds/camvid/*/partial.*")
    return partial


def test_after_kill_9_it_continues(raw, capfd):
    script = BEGINNING + (
        "read = base._read\n"
        "def die(pair):\n"
        "    if pair.name == 'val_002': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(pair)\n"
        "base._read = die\n"
        "prepare()\n"
    )
    command = [sys.executable, "-c", script, str(raw), str(raw.parent / "tfds")]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert folders(raw) == {"partial.1.0.0"}
    with pytest.raises(InputError, match="no prepared camvid"):
        data.prepare("camvid", data_dir=str(raw.parent / "tfds"))
    [partial] = raw.parent.glob("tfds/camvid/*/partial.*")
    finished = [f"camvid-{split}.array_record-{i:05d}" for split, i in SHARDS[:4]]
    before = {name: (partial / name).stat().st_ino for name in finished}

    capfd.readouterr()
    copy = prepare(raw)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == (
        f"preparing camvid in {copy.builder_dir}, continuing after 4 finished shards, 7 of 8 "
        "records"
    )
    assert [line.split(" in ")[0] for line in lines[1:]] == [
        "preparing camvid val: 1",
        "verifying camvid train: 5",
        "verifying camvid val: 3",
    ]
    assert before == {name: (Path(copy.builder_dir) / name).stat().st_ino for name in finished}
    assert folders(raw) == {"1.0.0"}
    assert_holds_the_files(copy, raw)


SHARDS = [("train", 0), ("train", 1), ("train", 2), ("val", 0), ("val", 1)]


@pytest.mark.parametrize("at,shards,records", [("train_000", 0, 0), ("val_000", 3, 5)])
def test_after_ctrl_c_it_continues(at, shards, records, raw, monkeypatch, capfd):
    interrupt(raw, monkeypatch, at)
    capfd.readouterr()
    assert_holds_the_files(prepare(raw), raw)
    continued = f"continuing after {shards} finished shards, {records} of 8 records"
    assert (continued in capfd.readouterr().err) == (shards > 0)


def test_a_line_cut_short_is_not_a_finished_shard(raw, monkeypatch, capfd):
    checksums = interrupt(raw, monkeypatch) / writing.CHECKSUMS
    checksums.write_bytes(checksums.read_bytes()[:-9])
    assert_holds_the_files(prepare(raw), raw)
    assert "continuing after 1 finished shards, 2 of 8 records" in capfd.readouterr().err


def test_a_full_disk_keeps_what_is_finished(raw):
    if not processes.can_mount(raw.parent):
        pytest.skip("needs Linux and the right to mount a tmpfs")
    script = BEGINNING + (
        "try: prepare()\n"
        "except errors.RunError as error: print(error)\n"
        "subprocess.run(['mount', '-o', 'remount,size=10m', place], check=True)\n"
        "prepare()\n"
    )
    disk = raw.parent / "tfds"
    disk.mkdir()
    # A shard takes at least 128 KiB, however little is in it.
    command = [sys.executable, "-c", script, str(raw), str(disk)]
    command = processes.mounted(disk, "size=400k", command)
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "failed: No space left on device; once there is room, the same comm" in done.stdout
    assert done.stdout.count("\n") == 1
    assert ", continuing after " in done.stderr


@pytest.mark.parametrize("damage,message", damages.DAMAGE)
def test_what_was_written_wrong_is_never_taken(damage, message, raw, monkeypatch):
    damage(interrupt(raw, monkeypatch))
    with pytest.raises(InputError, match=f"preparing camvid .* failed: {message}; nothing") as e:
        prepare(raw)
    assert "\n" not in str(e.value)
    assert folders(raw) == set()
    assert_holds_the_files(prepare(raw), raw)


def test_raw_files_that_change_meanwhile(raw, monkeypatch):
    label = raw / "valannot" / "val_001.png"
    before, write = label.read_bytes(), prepared.write

    def edit_then_write(*arguments, **options):
        label.write_bytes(before[:-20] + b"\0" + before[-19:])
        write(*arguments, **options)

    monkeypatch.setattr(prepared, "write", edit_then_write)
    with pytest.raises(InputError, match=r"failed: .* holds other files than .*raw had at first"):
        prepare(raw)
    assert folders(raw) == set()


def test_a_copy_is_verified_only_on_request(raw, capfd):
    prepare(raw)
    capfd.readouterr()
    prepare(raw)
    assert capfd.readouterr().err == ""
    for place in (raw, ""):
        data.prepare("camvid", raw_dir=str(place), data_dir=str(raw.parent / "tfds"), verify=True)
        said = [line.split(" in ")[0] for line in capfd.readouterr().err.splitlines()]
        assert said == ["verifying camvid train: 5", "verifying camvid val: 3"]


@pytest.mark.parametrize("damage,message", damages.DAMAGE[:3])
def test_a_damaged_copy_is_set_aside(damage, message, raw):
    damage(Path(prepare(raw).builder_dir))
    for _ in range(2):  # the second time the place of damaged copies is taken
        with pytest.raises(InputError, match=f"{message}; it is now in .*damaged.1.0.0, and --mo"):
            prepare(raw, verify=True)
        assert folders(raw) == {"damaged.1.0.0"}
        damage(Path(prepare(raw).builder_dir))
    with pytest.raises(InputError, match="has other bytes|cannot be read|is train_003"):
        data.prepare("camvid", data_dir=str(raw.parent / "tfds"), verify=True)


def test_a_damaged_record_is_an_error_in_training(raw):
    copy = prepare(raw)
    damages.break_a_byte(Path(copy.builder_dir))
    source = prepare(raw).source("train")
    assert source[0]["name"] == "train_000"
    with pytest.raises(InputError, match="record 1 of train in .* cannot be read: Corrupted"):
        source[1]


def test_a_copy_without_checksums_is_damaged(raw):
    folder = Path(prepare(raw).builder_dir)
    (folder / writing.CHECKSUMS).unlink()
    with pytest.raises(InputError, match="checksums.jsonl: missing or empty, .*damaged.1.0.0"):
        prepare(raw, verify=True)


def test_a_copy_that_was_made_of_other_files(raw):
    """Whole and as it was written, but in the folder of another fingerprint."""
    copy = Path(prepare(raw).builder_dir)
    label = raw / "valannot" / "val_001.png"
    label.write_bytes(trees.encode(trees.indices(9)))
    other = Path(prepare(raw).builder_dir)
    shutil.rmtree(other)
    shutil.copytree(copy, other)
    with pytest.raises(InputError, match="holds other files than .*damaged.1.0.0"):
        prepare(raw, verify=True)


def test_shapes_are_verified_too(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("collabseg_jax.data.builders.shapes.SPLIT_SIZES", {"train": 3, "val": 2})
    folder = Path(data.prepare("shapes", data_dir=str(tmp_path)).builder_dir)
    damages.flip(folder / "shapes-val.array_record-00000", b"val_0001")
    with pytest.raises(InputError, match="record 1 of val in .* cannot be read: Corrupted"):
        data.prepare("shapes", data_dir=str(tmp_path), verify=True)
