"""Which pictures are labelled, under which names, and what becomes of those that are damaged."""

import json

import numpy as np
import pytest
from PIL import Image

from collabseg_jax import data
from collabseg_jax.configs import quickstart
from collabseg_jax.errors import InputError, RunError
from collabseg_jax.modes import predict
from collabseg_jax.run.record import FORMAT

SIZE = (48, 40)  # width, height


def draw(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 200)).save(path)
    return path


@pytest.fixture
def go(tmp_path, monkeypatch):
    """go(images) predicts with a student that says class 1 everywhere."""
    config = quickstart.get_config()
    spec = data.SPECS["shapes"].to_record()
    record = {"format": FORMAT, "config": config.to_dict(), "spec": spec}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(
        predict, "predictor", lambda *_: lambda image, *_: np.ones(image.shape[:2], np.uint8)
    )

    def run(images, **keys):
        config.predict.images = str(images)
        config.predict.dir = str(tmp_path / "out")
        config.predict.update(keys)
        return predict.run(config, tmp_path / "run")

    return run


def written(tmp_path):
    out = tmp_path / "out"
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_a_damaged_picture_is_named_and_the_others_are_done(go, tmp_path, capsys):
    folder = tmp_path / "photos"
    draw(folder / "a.jpg")
    draw(folder / "z.png")
    (folder / "b.jpg").write_bytes(b"no picture")
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(folder / "c.png")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:5000])  # behind its header
    failed = go(folder, overlays=False)["failed"]
    assert [line.partition(":")[0] for line in failed] == [f"{folder}/b.jpg", f"{folder}/c.png"]
    assert written(tmp_path) == ["a.png", "z.png"]
    said = capsys.readouterr().err
    assert "2 label maps" in said and "2 of 4 pictures could not be read" in said
    assert all(line in said for line in failed)


def test_all_is_well(go, tmp_path):
    draw(tmp_path / "photos/a.jpg")
    assert go(tmp_path / "photos/*.jpg") == {"failed": []}
    assert written(tmp_path) == ["a.png", "a_overlay.jpg"]
    assert np.asarray(Image.open(tmp_path / "out/a.png")).shape == SIZE[::-1]


def test_a_folder_is_all_its_pictures_and_nothing_else(go, tmp_path):
    for name in ("a.jpg", "b.JPEG", "deep/er/c.webp", "d.tif"):
        draw(tmp_path / "photos" / name)
    (tmp_path / "photos/notes.txt").write_text("no picture")
    (tmp_path / "photos/e.png").mkdir()
    assert go(tmp_path / "photos", overlays=False) == {"failed": []}
    assert written(tmp_path) == ["a.png", "b.png", "c.png", "d.png"]


def test_square_brackets_in_the_name_of_a_file_are_no_pattern(go, tmp_path):
    go(draw(tmp_path / "photos/IMG [1].jpg"), overlays=False)
    assert written(tmp_path) == ["IMG [1].png"]


def test_equal_names_in_several_folders_keep_their_folders(go, tmp_path):
    for name in ("x/1/a.jpg", "x/2/a.jpg", "x/2/b.jpg"):
        draw(tmp_path / "photos" / name)
    go(tmp_path / "photos", overlays=False)
    assert written(tmp_path) == ["1/a.png", "2/a.png", "2/b.png"]


def test_equal_names_in_one_folder_are_refused(go, tmp_path):
    for name in ("a.jpg", "a.png"):
        draw(tmp_path / "photos" / name)
    with pytest.raises(InputError, match=r"a.jpg and .*a.png would both be a.png"):
        go(tmp_path / "photos")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("images", ["", "nowhere", "nowhere/*.jpg", "empty"])
def test_no_picture(go, tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"config.predict.images='{images}'|.*matches no file"):
        go(images)


def test_a_folder_that_cannot_be_written_is_one_line(go, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunError, match="out: cannot be written: File exists"):
        go(draw(tmp_path / "photos/a.jpg"))
