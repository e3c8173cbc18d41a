"""`--mode=check`: what it prints, and the page of pictures."""

import numpy as np
import PIL.Image

from collabseg_jax import data
from collabseg_jax.configs import camvid
from collabseg_jax.data import check_report
from collabseg_jax.main import MODES
from collabseg_jax.modes import check
from tests.data import trees


def config_of(raw):
    config = camvid.get_config()
    config.data.raw_dir = str(raw)
    config.data.crop = (32, 32)
    return config


def write_pair(root, split, name, image, label):
    trees.write(root / split / f"{name}.png", trees.encode(image))
    trees.write(root / f"{split}annot" / f"{name}.png", trees.encode(label))


def test_the_report_in_words(tmp_path, capsys):
    label = np.zeros((20, 40), np.uint8)
    label[:, 10:] = 3
    for i, size in enumerate(((20, 40), (20, 38), (18, 40))):
        write_pair(tmp_path, "train", f"t{i}", trees.picture(i, size), label[: size[0], : size[1]])
    label[:, 30:] = 11
    for i in range(23):
        write_pair(tmp_path, "val", f"v{i:02d}", trees.picture(9, (20, 40)), label)
    (tmp_path / "train/t2.png").write_bytes(b"")
    report = check.run(config_of(tmp_path), tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:12] == [
        f"camvid in {tmp_path}",
        "",
        "split          pairs  unusable   ignored  sizes (width x height)",
        "train              3         1    0.00%  2 different, 38x20 to 40x20, median 38x20",
        "val               23         0   25.00%  all 40x20",
        "",
        "                            train                 val",
        "class               share  images       share  images",
        # 200 of 1560 pixels; of 600 that count, 200.
        "sky               25.641%       2     33.333%      23",
        "building           0.000%       0      0.000%       0",
        "pole               0.000%       0      0.000%       0",
        "road              74.359%       2     66.667%      23",
    ]
    text = "\n".join(lines)
    assert "\nerrors (1)\n  train/t2.png: 0 bytes, expected a .png file\n" in text
    assert "\nwarning: classes that no training label has (9)\n  building\n" in text
    assert "more than once (the same pixels) (1)\n  val/v00.png, val/v01.png, val/v02.png, " in text
    assert "val/v03.png and 19 more\n" in text
    assert lines[-1] == (f"1 error, 12 warnings; check.json and check.png in {tmp_path / 'run'}")
    assert report["splits"]["train"]["sizes"]["distinct"] == 2


def test_long_lists_are_cut_on_the_screen_only():
    report = {"data_set": "x", "where": "y", "splits": {}, "warnings": {}}
    report["errors"] = [f"error {i}" for i in range(check.SHOWN + 3)]
    text = check.text(report)
    assert f"error {check.SHOWN - 1}\n  and 3 more in check.json" in text
    assert f"error {check.SHOWN}" not in text


def test_the_page_shows_suspicious_pairs_and_evenly_spaced_ones(tmp_path, capsys):
    dark, bright = np.zeros(trees.SIZE, np.uint8), np.full(trees.SIZE, 7, np.uint8)
    for i in range(13):
        label = trees.columns(range(12)) if i != 4 else bright
        write_pair(tmp_path, "train", f"t{i:02d}", np.dstack([dark] * 3), label)
    write_pair(tmp_path, "val", "v", trees.picture(0), trees.columns([0, 1]))
    checked = data.check("camvid", raw_dir=str(tmp_path))
    samples = check._samples(checked)
    evenly = ["t00", "t02", "t05", "t07", "t10", "t12"]  # 12 / 5 apart, rounded
    assert [(kind, name) for kind, name, *_ in samples] == [
        ("nearly empty", "train/t04.png"),
        *(("train", f"train/{name}.png") for name in evenly),
        ("val", "val/v.png"),
    ]
    check.run(config_of(tmp_path), tmp_path / "run")
    page = np.asarray(PIL.Image.open(tmp_path / "run/check.png").convert("RGB")).reshape(-1, 3)
    fence = checked.spec.palette[7]
    there = (page == np.round(0.55 * np.array(fence))).all(axis=1)  # over black
    assert there.sum() > 5000
    trees.write(tmp_path / "train/t00.png", b"")
    for path in tmp_path.glob("*annot/*.png"):
        path.write_bytes(b"no label")
    check.run(config_of(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run/check.png").exists()  # nothing to show; the old one is gone


def test_every_kind_of_warning_has_a_heading():
    spec = data.get_spec("camvid")
    reading = check_report.Reading(
        None, ("i", "l", "b"), (), (4, 4), b"1", np.eye(256, dtype=int)[0]
    )
    other = check_report.Reading(None, ("j", "k", "b"), (), (4, 4), b"2", np.eye(256, dtype=int)[0])
    readings = {"train": [reading, reading, other], "val": [other]}
    report = check_report.summarize(spec, readings, [], needed=["test"], crop=(8, 8))
    assert report["warnings"].keys() == check.HEADINGS.keys()
    assert "check" in MODES
