import sys

import cv2
import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data.builders import shapes
from collabseg_jax.labels import IGNORE


@pytest.fixture(scope="module")
def scenes():
    """{split: (images [N, H, W, 3], labels [N, H, W])} of the whole data set."""
    return {
        split: tuple(
            map(np.stack, zip(*(shapes.scene(split, i) for i in range(count)), strict=True))
        )
        for split, count in shapes.SPLIT_SIZES.items()
    }


def mean_iou(predicted, label):
    """Over the classes that are labelled or predicted somewhere."""
    classes, valid = shapes.SPEC.num_classes, label != IGNORE
    pairs = label[valid].astype(int) * classes + predicted[valid]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return np.mean(confusion.diagonal()[union > 0] / union[union > 0])


def test_a_scene_is_uint8_and_depends_on_nothing_but_its_place():
    image, label = shapes.scene("train", 5)
    assert image.shape == (128, 128, 3) and label.shape == (128, 128)
    assert image.dtype == label.dtype == np.uint8
    shapes.scene("val", 0)
    np.random.default_rng(1).random()
    again = shapes.scene("train", 5)
    np.testing.assert_array_equal(image, again[0])
    np.testing.assert_array_equal(label, again[1])
    for other in (("train", 6), ("val", 5)):
        assert (shapes.scene(*other)[1] != label).mean() > 0.1


def test_no_class_is_rare_and_none_dominates(scenes):
    for _, labels in scenes.values():
        assert set(np.unique(labels)) == {*range(shapes.SPEC.num_classes), IGNORE}
        shares = np.bincount(labels[labels != IGNORE]) / (labels != IGNORE).sum()
        assert shares.min() >= 0.04 and shares.max() < 0.35


@pytest.mark.parametrize("bins", [16, 64])
@pytest.mark.parametrize("prior", [True, False])
def test_colour_does_not_tell_the_class(scenes, bins, prior):
    """The best class for each RGB cell, by counts in train, with and without class frequencies."""
    cells = {
        split: (images.astype(int) * bins // 256) @ [bins**2, bins, 1]
        for split, (images, _) in scenes.items()
    }
    (_, label), (_, val_label) = scenes["train"], scenes["val"]
    valid, classes = label != IGNORE, shapes.SPEC.num_classes
    votes = np.bincount(
        cells["train"][valid] * classes + label[valid], minlength=bins**3 * classes
    ).reshape(-1, classes)
    if not prior:
        votes = votes / votes.sum(0)
    assert mean_iou(votes.argmax(1)[cells["val"]], val_label) < 0.15


def test_classes_share_their_colours(scenes):
    """Mean and spread of every channel: alike among the kinds that one cue has to tell apart."""
    images, labels = scenes["train"]
    for group in (shapes.LAYOUT, shapes.TEXTURES, shapes.SHAPES):
        pixels = [images[labels == shapes.CLASSES.index(kind)] for kind in group]
        assert np.ptp([values.mean(0) for values in pixels], axis=0).max() < 12
        assert np.ptp([values.std(0) for values in pixels], axis=0).max() < 8


def test_layout_is_told_by_place_alone(scenes):
    """In every column, sky is above ground."""
    rows = np.arange(128)[:, None]
    for label in scenes["val"][1]:
        lowest_sky = np.where(label == 0, rows, -1).max(0)
        highest_ground = np.where(label == 1, rows, 128).min(0)
        assert (lowest_sky < highest_ground).all()


def test_objects_have_a_thin_ignored_border(scenes):
    kernel = np.ones((3, 3), np.uint8)
    for label in scenes["val"][1]:
        border = (label == IGNORE).astype(np.uint8)
        assert 0.03 < border.mean() < 0.15
        # Only where borders meet are they wider than four pixels.
        assert cv2.erode(border, np.ones((5, 5), np.uint8)).mean() < 0.001
        # No object touches a surface or another object.
        for kind in range(2, shapes.SPEC.num_classes):
            near = cv2.dilate((label == kind).astype(np.uint8), kernel).astype(bool)
            assert np.isin(label[near], (kind, IGNORE)).all()


def test_records_are_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SPLIT_SIZES", {"train": 6, "val": 3})
    prepared = data.prepare("shapes", data_dir=str(tmp_path))
    assert prepared.sizes == {"train": 6, "val": 3}
    for split, count in prepared.sizes.items():
        source = prepared.source(split)
        assert [source[i]["name"] for i in range(count)] == [
            f"{split}_{i:04d}" for i in range(count)
        ]
        for i in range(count):
            record = data.decode.decode_record(source[i], shapes.SPEC)
            image, label = shapes.scene(split, i)
            np.testing.assert_array_equal(record["image"], image)
            np.testing.assert_array_equal(record["label"], label)
    assert "tensorflow" not in sys.modules
