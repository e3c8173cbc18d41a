"""What goes wrong while a run goes on, provoked for real: disks, damaged files, clocks, losses."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax import checkpoint, data, train
from collabseg_jax import workdir as workdirs
from collabseg_jax.errors import InputError, RunError
from tests import processes, tiny
from tests.data import trees


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    tiny.install(monkeypatch)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """The workdir of an uninterrupted run with the checkpoints of steps 8 and 12."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny.install(monkeypatch)
        workdir = tmp_path_factory.mktemp("runs") / "whole"
        train.run(make_config(data_dir), workdir)
    return workdir


def make_config(data_dir, **overrides):
    """A dozen steps with checkpoints at 4, 8 and 12 and one evaluation, at the end."""
    return tiny.make_config(data_dir, **{"eval.every": 0, **overrides})


def arrays(workdir, data_dir):
    return tiny.trained_arrays(workdir, make_config(data_dir))


def assert_same_arrays(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# --- damaged checkpoints ---------------------------------------------------------------------


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


DAMAGES = (flip_a_bit, cut_short, empty_the_manifest, lose_the_arrays, lose_the_checksum)


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
    original = int(checkpoint.checksum(tree))
    for name in ("a", "b"):
        for word in range(tree[name].size):
            for bit in range(0, 32, 3):
                changed = tree[name].copy()
                changed.view(np.uint32)[word] ^= np.uint32(1 << bit)
                assert int(checkpoint.checksum(tree | {name: changed})) != original
    assert int(checkpoint.checksum(tree | {"key": jax.random.key(6)})) != original
    assert int(checkpoint.checksum(tree | {"a": tree["a"][::-1].copy()})) != original


# --- disks -----------------------------------------------------------------------------------


def mounted(folder, options, command):
    """`command` where a tmpfs of these options lies on `folder`, in a namespace of its own."""
    script = f'mount -t tmpfs -o {options} none "$1" && shift && exec "$@"'
    return [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        str(folder),
        *command,
    ]


def can_mount(tmp_path):
    try:
        return subprocess.run(mounted(tmp_path, "size=1m", ["true"]), check=False).returncode == 0
    except OSError:
        return False


def on_small_disk(tmp_path, data_dir, size, before="true", **overrides):
    """A run whose workdir has a disk of its own; what it said, its exit code, what is there."""
    if not can_mount(tmp_path):
        pytest.skip("needs Linux and the right to mount a tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    flags = processes.flags_of(make_config(data_dir, **overrides))
    run = [sys.executable, "-m", "tests.run_tiny", f"--workdir={disk}/run", *flags]
    after = f"cd {disk}; find run/checkpoints -maxdepth 1 -mindepth 1; ls run"
    script = f'{before} && "$@"; code=$?; {after}; exit $code'
    command = mounted(disk, f"size={size}", ["sh", "-c", script, "sh", *run])
    environment = os.environ | {"XLA_FLAGS": "", "DISK": str(disk)}
    done = subprocess.run(
        command, cwd=processes.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.stderr, done.returncode, done.stdout


def test_a_full_disk_ends_the_run_with_one_line(data_dir, tmp_path):
    """A few checkpoints fit, so the first is whole when a later one fails."""
    said, code, left = on_small_disk(
        tmp_path, data_dir, "400k", steps=400, **{"checkpoint.keep": 400}
    )
    assert code == 1, said
    [line] = [line for line in said.splitlines() if line.startswith("error:")]
    assert "Traceback" not in said
    assert "No space left on device" in line or "ENOSPC" in line or "[Errno 28]" in line
    assert "run/checkpoints/4\n" in left


def test_a_read_only_disk(data_dir, tmp_path):
    before = 'mkdir -p "$DISK/run" && mount -o remount,ro "$DISK"'
    said, code, _ = on_small_disk(tmp_path, data_dir, "10m", before)
    assert code == 1
    [line] = [line for line in said.splitlines() if line.startswith("error:")]
    assert "run/lock: cannot be written: Read-only file system" in line
    assert "Traceback" not in said


def test_checkpoints_on_a_read_only_disk(data_dir, tmp_path):
    """All else can be written, so it is the first save that fails."""
    place = '"$DISK/run/checkpoints"'
    before = f"mkdir -p {place} && mount -t tmpfs -o ro none {place}"
    said, code, _ = on_small_disk(tmp_path, data_dir, "10m", before)
    assert code == 1, said
    [line] = [line for line in said.splitlines() if line.startswith("error:")]
    assert "run/checkpoints: a checkpoint could not be saved: " in line
    assert "Read-only file system" in line
    assert "The last good one: none" in line
    assert "Traceback" not in said


# --- losses that are no numbers --------------------------------------------------------------


def test_a_bad_batch_is_skipped_and_counted():
    """Not a bit changes but the counters, and a good batch then continues as if nothing was."""
    good, bad = tiny.make_batch(seed=1), tiny.make_batch(seed=2)
    bad = bad | {"image": np.where(np.arange(3) == 1, np.nan, bad["image"].astype(np.float32))}
    created, step, _ = tiny.make_run()
    before = jax.device_get((created.cnn, created.vit, created.bridges))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(before))
    after, logs = step(created, bad)
    assert_same_arrays(before, jax.device_get((after.cnn, after.vit, after.bridges)))
    assert not np.isfinite(float(logs["cnn/ce"]))
    assert (int(logs["skipped"]), int(logs["skipped_in_a_row"]), int(after.step)) == (1, 1, 1)
    after, logs = step(after, bad)
    assert (int(logs["skipped"]), int(logs["skipped_in_a_row"])) == (2, 2)
    after, logs = step(after, good)
    assert (int(logs["skipped"]), int(logs["skipped_in_a_row"])) == (2, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(after.cnn)))
    moved = jax.tree.map(lambda a, b: bool((a != np.asarray(b)).any()), before[0], after.cnn)
    assert any(jax.tree.leaves(moved))


def test_a_gradient_that_is_no_number_is_skipped_too():
    """The loss is finite, but its gradient overflows."""
    created, step, _ = tiny.make_run()
    huge = jax.tree.map(lambda p: jnp.full_like(p, 1e30), created.vit.params["norm"])
    params = created.vit.params | {"norm": huge}
    created = created.replace(vit=created.vit.replace(params=params))
    after, logs = step(created, tiny.make_batch())
    assert np.isfinite(float(logs["vit/total"])) and not np.isfinite(float(logs["vit/grad_norm"]))
    assert int(logs["skipped"]) == 1
    np.testing.assert_array_equal(after.vit.params["norm"]["scale"], np.float32(1e30))


def test_a_run_of_bad_steps_stops_and_names_the_term(data_dir, tmp_path, capfd):
    """Logits over a temperature this small overflow, in one term only."""
    config = make_config(data_dir, max_skipped=3, **{"losses.bsd_pixel.temperature": 1e-44})
    with pytest.raises(RunError) as error:
        train.run(config, tmp_path / "run")
    line = str(error.value)
    assert line.startswith("step 3: cnn/bsd_pixel is nan")
    assert "cnn/ce is" not in line and "vit/bsd_region is" not in line
    assert "3 steps skipped in a row (config.max_skipped = 3)" in line
    assert "step 1 skipped: cnn/bsd_pixel is nan" in capfd.readouterr().err


# --- one workdir, one run --------------------------------------------------------------------


def test_a_second_run_is_refused_until_the_first_lets_go(finished, data_dir):
    with workdirs.locked(finished):
        before = sorted(p.stat().st_mtime_ns for p in finished.rglob("*"))
        with pytest.raises(RunError, match=rf"{finished} is in use by process {os.getpid()} on "):
            train.run(make_config(data_dir), finished)
        assert before == sorted(p.stat().st_mtime_ns for p in finished.rglob("*"))
    assert train.run(make_config(data_dir), finished)["step"] == 12


# --- clocks ----------------------------------------------------------------------------------

JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static long calls;
static long jump(void) { /* a day back, a day ahead, ... every few readings */
  long n = __sync_fetch_and_add(&calls, 1) / 100;
  return n % 3 == 0 ? 0 : n % 3 == 1 ? -86400 : 86400;
}
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, t);
  if (id == CLOCK_REALTIME) t->tv_sec += jump();
  return result;
}
time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t) *t = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


def test_a_clock_that_jumps_changes_nothing(finished, data_dir, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "clock.c").write_text(JUMPING_CLOCK)
    library = tmp_path / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"]
    subprocess.run(command, check=True)
    probe = [
        sys.executable,
        "-c",
        "import time; print({round(time.time(), -4) for _ in range(200)})",
    ]
    jumping = {"LD_PRELOAD": str(library)}
    seen = subprocess.run(probe, env=os.environ | jumping, capture_output=True, check=True).stdout
    assert seen.count(b",") >= 2  # the clock does jump

    run = tmp_path / "run"
    flags = [f"--workdir={run}", *processes.flags_of(make_config(data_dir))]
    logs = tmp_path / "logs"
    started = processes.start("tests.run_tiny", flags, logs=logs, devices=4, environment=jumping)
    processes.finish(started, logs)
    assert_same_arrays(arrays(run, data_dir), arrays(finished, data_dir))
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [8, 12]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["images_per_s"] for line in lines if "images_per_s" in line]
    assert len(speeds) == 6 and all(0 < speed < 1e5 for speed in speeds)


# --- bad training data -----------------------------------------------------------------------


def write_label(raw, label, **options):
    (raw / "trainannot" / "train_001.png").write_bytes(trees.encode(label, **options))


def stray_value(raw):
    label = trees.indices(1)
    label[3, 4] = 77
    write_label(raw, label)


BAD_TREES = {
    "an image without its label": (
        lambda raw: (raw / "trainannot" / "train_001.png").unlink(),
        r"train_001\.jpg: image without label, expected a label named train_001",
    ),
    "a label of another size": (
        lambda raw: write_label(raw, trees.indices(1, (24, 30))),
        "train_001: image is 32x24 and label is 30x24 pixels .* expected the same",
    ),
    "a truncated JPEG": (
        lambda raw: os.truncate(raw / "train" / "train_001.jpg", 700),
        r"train_001 .image.: damaged JPEG",
    ),
    "an empty JPEG": (
        lambda raw: os.truncate(raw / "train" / "train_001.jpg", 0),
        r"train_001\.jpg: 0 bytes, expected a \.jpg file",
    ),
    "a value outside the classes": (
        stray_value,
        "train_001 .label.: label value 77 at row 3, column 4; expected for camvid: 0-11",
    ),
    "an RGB label": (
        lambda raw: write_label(raw, trees.picture(1)),
        "train_001 .label.: label has channels RGB, expected one channel of class indices",
    ),
    "a rotated photo with an upright label": (
        lambda raw: (raw / "train" / "train_001.jpg").write_bytes(rotated(trees.picture(1))),
        "train_001: image is 24x32 and label is 32x24 pixels",
    ),
    "a 16-bit photo": (
        lambda raw: (raw / "train" / "train_000.png").write_bytes(
            trees.encode(np.full(trees.SIZE, 40000, np.uint16))
        ),
        "train_000 .image.: image of 16 or more bits .* expected 8 bits",
    ),
}


def rotated(pixels):
    exif = trees.PIL.Image.Exif()
    exif[0x0112] = 6
    return trees.encode(pixels, "JPEG", exif=exif)


@pytest.mark.parametrize("name", BAD_TREES)
def test_bad_training_data_stops_the_run_with_one_line(tmp_path, name):
    damage, message = BAD_TREES[name]
    raw = trees.camvid(tmp_path / "raw", {"train": 4, "val": 1})
    damage(raw)
    config = make_config(tmp_path / "tfds", **{"data.name": "camvid", "data.raw_dir": str(raw)})
    with pytest.raises(InputError, match=message) as error:
        train.run(config, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_odd_but_good_training_data_is_read_right(tmp_path):
    """CMYK, EXIF with its label as the camera wrote both, 16-bit and palette labels: one batch."""
    raw = trees.camvid(tmp_path / "raw", {"train": 4, "val": 1})
    files = {p.stem: p for p in (raw / "train").iterdir()}
    files["train_001"].write_bytes(trees.encode(trees.picture(1), "JPEG", "CMYK", quality=95))
    files["train_002"].write_bytes(rotated(np.rot90(trees.picture(2)).copy()))
    labels = {i: trees.indices(i) for i in range(4)}
    (raw / "trainannot" / "train_000.png").write_bytes(trees.encode(labels[0].astype(np.uint16)))
    palette = trees.PIL.Image.fromarray(labels[3], "P")
    palette.putpalette(list(range(255, 255 - 36, -1)))
    palette.save(raw / "trainannot" / "train_003.png")
    prepared = data.prepare("camvid", raw_dir=str(raw), data_dir=str(tmp_path / "tfds"))
    whole = {"crop": trees.SIZE, "scale_range": (1.0, 1.0), "flip": False, "cat_max_ratio": 1.0}
    with data.train_batches(
        prepared.source("train"), prepared.spec, batch_size=4, **whole
    ) as batches:
        batch = next(batches)
    for i in range(4):
        expected = np.where(labels[i] == 11, 255, labels[i])
        [row] = [k for k in range(4) if (batch["label"][k] == expected).all()]
        difference = batch["image"][row].astype(int) - trees.picture(i)
        assert np.abs(difference).mean() < 8  # JPEG; another picture is at 60 or so
