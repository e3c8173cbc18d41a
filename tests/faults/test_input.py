"""Training data that is damaged or odd: refused with one line, or read right."""

import os

import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.errors import InputError
from collabseg_jax.modes import train
from tests.data import trees
from tests.faults.runs import make_config

pytestmark = pytest.mark.usefixtures("tiny_models")


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
