"""Damaged checkpoints: every kind of damage is noticed, and the one before is taken."""

import os
import shutil
import subprocess
import sys
import threading
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.errors import InputError, RunError
from collabseg_jax.modes import train
from collabseg_jax.run import checkpoint
from tests.faults.runs import arrays, assert_same_arrays, make_config

pytestmark = pytest.mark.usefixtures("tiny_models")


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(folder):
    content = bytearray(largest(folder / "state").read_bytes())
    content[len(content) // 2] ^= 4
    largest(folder / "state").write_bytes(content)


def cut_short(folder):
    os.truncate(largest(folder / "state"), largest(folder / "state").stat().st_size // 2)


def empty_the_manifest(folder):
    os.truncate(folder / "state" / "manifest.ocdbt", 0)


def lose_the_arrays(folder):
    shutil.rmtree(folder / "state")


def lose_the_checksum(folder):
    os.truncate(folder / "_CHECKPOINT_METADATA", 0)


DAMAGES = (
    *(flip_a_bit, lose_the_arrays, lose_the_checksum),
    *(pytest.param(damage, marks=pytest.mark.slow) for damage in (cut_short, empty_the_manifest)),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(
    finished, data_dir, tmp_path, capfd, damage
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run / "checkpoints" / "12")
    results = train.run(make_config(data_dir), run)
    said = capfd.readouterr().err
    assert f"checkpoint {run}/checkpoints/12 is damaged" in said
    assert "falling back to the checkpoint of step 8" in said
    assert (run / "checkpoints_damaged" / "12").is_dir()
    assert results["step"] == 12
    assert_same_arrays(arrays(run, data_dir), arrays(finished, data_dir))


def test_if_all_are_damaged_nothing_is_touched(finished, data_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for step in (8, 12):
        cut_short(run / "checkpoints" / str(step))
    with pytest.raises(RunError, match="holds no checkpoint that can be used; to start anew, mov"):
        train.run(make_config(data_dir), run)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["12", "8"]


def arrays_of(tree):
    return {k: jnp.asarray(v) for k, v in tree.items()}


def test_any_flipped_bit_changes_the_checksum():
    tree = {"a": np.arange(7, dtype=np.float32), "b": np.array([3, -1], np.int32)}
    tree["key"] = jax.random.key(5)
    original = checkpoint.crc32(arrays_of(tree))
    for name in ("a", "b"):
        for word in range(tree[name].size):
            for bit in range(0, 32, 3):
                changed = tree[name].copy()
                changed.view(np.uint32)[word] ^= np.uint32(1 << bit)
                assert checkpoint.crc32(arrays_of(tree | {name: changed})) != original
    two_signs = tree["a"] * np.float32([1, 1, -1, 1, -1, 1, 1])
    for other in ({"key": jax.random.key(6)}, {"a": tree["a"][::-1].copy()}, {"a": two_signs}):
        assert checkpoint.crc32(arrays_of(tree | other)) != original


def test_the_checksum_is_that_of_the_bytes_in_the_order_of_the_leaves():
    tree = {"b": np.float32([1.5, -2]), "a": np.array(7, np.int32), "c": jnp.bfloat16([3.0])}
    content = b"".join(np.asarray(tree[name]).tobytes() for name in "abc")
    assert checkpoint.crc32(arrays_of(tree)) == zlib.crc32(content)


def saved_with(monkeypatch, folder, key, number_of):
    """A state saved as an earlier version did: its checksum under another key."""
    save = checkpoint.Checkpoints(folder, every=1)
    state = arrays_of({"w": np.float32([1.0, -2.0, 3.0])})
    monkeypatch.setattr(checkpoint, "CRC", key)
    monkeypatch.setattr(checkpoint, "crc32", number_of)
    save.save(1, state)
    save.close()
    monkeypatch.undo()
    return state


def old_sum(state):
    """Word for word: odd factors by place, and a generator's step for each array."""
    words = np.asarray(state["w"]).view(np.uint32)
    return sum(int(word) * (2 * i + 1) for i, word in enumerate(words)) % 2**32


@pytest.mark.parametrize("off", [0, 1])
def test_checkpoints_of_earlier_versions_are_read_and_compared(tmp_path, monkeypatch, off):
    state = saved_with(monkeypatch, tmp_path, "checksum", lambda state: old_sum(state) + off)
    reader = checkpoint.Checkpoints(tmp_path)
    if off:
        with pytest.raises(InputError, match="1 is damaged: its arrays have checksum"):
            reader.restore(1, state)
    else:
        np.testing.assert_array_equal(reader.restore(1, state)["w"], state["w"])
    reader.close()


def test_a_checkpoint_without_any_checksum_is_damaged(tmp_path, monkeypatch):
    state = saved_with(monkeypatch, tmp_path, "other", lambda _: 0)
    reader = checkpoint.Checkpoints(tmp_path)
    with pytest.raises(InputError, match="expected None"):
        reader.restore(1, state)
    reader.close()


def test_one_line_of_a_damaged_checkpoint_and_standard_error_stays_where_it_is(tmp_path):
    """In a process of its own: what orbax's tasks say, they say from threads and destructors."""
    code = f"""
import os, pathlib, jax.numpy as jnp
from collabseg_jax.errors import InputError
from collabseg_jax.run.checkpoint import Checkpoints
state = {{f"w{{i}}": jnp.ones((64, 64)) for i in range(40)}}
writer = Checkpoints({str(tmp_path)!r}, every=1)
writer.save(1, state)
writer.close()
folder = pathlib.Path({str(tmp_path)!r}, "checkpoints", "1", "state")
largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
os.truncate(largest, largest.stat().st_size // 2)
before, dup2 = os.fstat(2), os.dup2
os.dup2 = lambda *_: print("redirected")
reader = Checkpoints({str(tmp_path)!r})
try:
    reader.restore(1, state)
except InputError as error:
    print(error)
reader.close()
print(os.fstat(2) == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line, same = done.stdout.splitlines()
    assert "checkpoints/1 is damaged, or of another version" in line
    assert same == "True" and done.stderr == ""


def test_saves_leave_no_threads_and_no_open_files(tmp_path):
    """A run of weeks saves hundreds of times; 1,024 open files are the usual limit."""
    state = arrays_of({"w": np.arange(3, dtype=np.float32)})
    writer = checkpoint.Checkpoints(tmp_path, every=1)
    counts = []
    for step in range(1, 25):
        writer.save(step, state)
        if step in (4, 24):  # what orbax keeps for good is there after the first few
            writer.steps()
            counts.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    writer.close()
    (threads, files), (threads_later, files_later) = counts
    # Room for the save under way; 20 leaks would be 20 threads and 60 files.
    assert threads_later < threads + 8 and files_later < files + 8


def test_the_bottom_of_an_error_even_of_one_that_was_raised_twice():
    full = OSError("no space left")
    try:
        try:
            raise full
        except OSError as error:
            raise RunError("not saved") from error
    except RunError as error:
        full.__context__ = error
        assert checkpoint._root(error) == checkpoint._root(full) == "OSError: no space left"
