"""Damaged checkpoints: every kind of damage is noticed, and the one before is taken."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.errors import RunError
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


def test_any_flipped_bit_changes_the_checksum():
    tree = {"a": np.arange(7, dtype=np.float32), "b": np.array([3, -1], np.int32)}
    tree["key"] = jax.random.key(5)

    def checksum(tree):
        return checkpoint.checksum({k: jnp.asarray(v) for k, v in tree.items()})

    original = checksum(tree)
    for name in ("a", "b"):
        for word in range(tree[name].size):
            for bit in range(0, 32, 3):
                changed = tree[name].copy()
                changed.view(np.uint32)[word] ^= np.uint32(1 << bit)
                assert checksum(tree | {name: changed}) != original
    assert checksum(tree | {"key": jax.random.key(6)}) != original
    assert checksum(tree | {"a": tree["a"][::-1].copy()}) != original
