"""Scores against values worked out by hand and by counting."""

import numpy as np
import pytest

from collabseg_jax import metrics


def test_scores_by_hand():
    # Class 0: 3 of 4 right; class 1: 1 of 2 right, one false; class 2 occurs nowhere.
    confusion = np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]])
    result = metrics.scores(confusion, ("a", "b", "c"))
    assert result["iou"] == {"a": 3 / 5, "b": 1 / 3, "c": None}
    assert result["miou"] == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert result["pixel_accuracy"] == pytest.approx(4 / 6)
    assert result["mean_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_predicted_but_absent_class_scores_zero():
    result = metrics.scores(np.array([[2, 2], [0, 0]]), ("a", "b"))
    assert result["iou"] == {"a": 0.5, "b": 0.0}
    assert result["mean_accuracy"] == 0.5


def test_nothing_labelled_is_none():
    result = metrics.scores(np.zeros((2, 2)), ("a", "b"))
    assert result["miou"] is None
    assert result["pixel_accuracy"] is None


def test_confusion_counts_like_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (2, 7, 9)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    predictions = rng.integers(0, 5, labels.shape).astype(np.uint8)
    expected = np.zeros((5, 5), int)
    for t, p in zip(labels.ravel(), predictions.ravel(), strict=True):
        if t != 255:
            expected[t, p] += 1
    found = metrics.confusion_matrix(predictions, labels, num_classes=5)
    np.testing.assert_array_equal(found, expected)
