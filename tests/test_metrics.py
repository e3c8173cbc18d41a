"""Scores against values computed by hand and by counting."""

import subprocess
import sys

import clu.metrics
import jax
import jax.numpy as jnp
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


def test_scores_of_other_classes():
    with pytest.raises(ValueError, match=r"confusion is \(2, 2\), expected \(3, 3\)"):
        metrics.scores(np.zeros((2, 2)), ("a", "b", "c"))


def batch(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (2, 7, 9)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    return rng.integers(0, 5, labels.shape).astype(np.uint8), labels


def counted(predictions, labels):
    counts = np.zeros((5, 5), int)
    for t, p in zip(labels.ravel(), predictions.ravel(), strict=True):
        if t != 255:
            counts[t, p] += 1
    return counts


def test_confusion_counts_like_a_loop():
    predictions, labels = batch(0)
    counts = metrics.confusion_matrix(predictions, labels, num_classes=5)
    np.testing.assert_array_equal(counts, counted(predictions, labels))


def test_confusion_over_batches():
    """As a clu metric: compiled for a batch, merged over them, scored at the end."""
    one = jax.jit(lambda p, t: metrics.Confusion.from_model_output(p, t, num_classes=5))
    total = metrics.Confusion.empty()
    for seed in range(3):
        total = total.merge(one(*batch(seed)))
    expected = sum(counted(*batch(seed)) for seed in range(3))
    assert isinstance(total, clu.metrics.Metric)
    np.testing.assert_array_equal(total.counts, expected)
    classes = tuple("abcde")
    assert total.compute(classes) == metrics.scores(expected, classes)
    assert list(total.compute()["iou"]) == ["0", "1", "2", "3", "4"]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(one(*batch(seed)) for seed in range(3)))
    np.testing.assert_array_equal(stacked.reduce().counts, expected)


@pytest.mark.parametrize("join", ["merge", "reduce"])
def test_sums_are_exact_beyond_int32(join):
    """Three batches with a class of 2^31 - 1 pixels, the most that one call counts."""
    most = 2**31 - 1
    counts = jnp.array([[most, 1], [0, most]], jnp.int32)
    if join == "merge":
        total = metrics.Confusion.empty(2)
        for _ in range(3):
            total = total.merge(metrics.Confusion(counts))
    else:
        total = metrics.Confusion(jnp.stack([counts] * 3)).reduce()
    assert total.counts.dtype == np.int64
    assert total.counts.tolist() == [[3 * most, 3], [0, 3 * most]]
    assert total.compute(("a", "b"))["iou"] == {"a": most / 2**31, "b": most / 2**31}


def test_collection_of_clu():
    predictions, labels = batch(4)
    collection = clu.metrics.Collection.create(confusion=metrics.Confusion)
    result = collection.single_from_model_output(
        predictions=predictions, labels=labels, num_classes=5, loss=0.0
    )
    result = collection.empty().merge(result)
    np.testing.assert_array_equal(result.confusion.counts, counted(predictions, labels))


def test_import_is_light():
    """clu can write TensorFlow's summaries; its metrics do without."""
    code = "import sys; import collabseg_jax.metrics; print('tensorflow' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
