"""Confusion matrices on the device, scores from their sum on the host."""

import jax.numpy as jnp
import numpy as np


def confusion_matrix(predictions, labels, *, num_classes: int, ignore_label: int = 255):
    """Count (label, prediction) pairs.

    Args:
      predictions: [...] integer in [0, K).
      labels: [...] integer in [0, K), or `ignore_label`.
    Returns:
      [K, K] int32; rows are labels, columns predictions. Exact below 2^31 pixels a call.
    """
    valid = labels != ignore_label
    labels = jnp.where(valid, labels, 0).astype(jnp.int32)
    index = jnp.where(valid, labels * num_classes + predictions.astype(jnp.int32), num_classes**2)
    counts = jnp.bincount(index.reshape(-1), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def scores(confusion, classes) -> dict:
    """Scores of a whole set from its summed confusion matrix.

    Args:
      confusion: [K, K] counts; rows are labels, columns predictions.
      classes: K class names.
    Returns:
      miou (over classes whose union is not 0), pixel_accuracy, mean_accuracy (over classes that
      occur in the labels), iou {class: value, or None if its union is 0}; all in [0, 1], and
      None where there is nothing to score.
    Source: Long et al. 2015, section 5.
    """
    confusion = np.asarray(confusion, np.int64)
    if confusion.shape != (len(classes),) * 2:
        raise ValueError(f"confusion is {confusion.shape}, expected {(len(classes),) * 2}")
    hits, labelled = np.diag(confusion), confusion.sum(1)
    union = labelled + confusion.sum(0) - hits
    iou = [float(h / u) if u else None for h, u in zip(hits, union, strict=True)]
    accuracy = [float(h / n) for h, n in zip(hits, labelled, strict=True) if n]
    occurring = [value for value in iou if value is not None]
    return {
        "miou": float(np.mean(occurring)) if occurring else None,
        "pixel_accuracy": float(hits.sum() / labelled.sum()) if labelled.sum() else None,
        "mean_accuracy": float(np.mean(accuracy)) if accuracy else None,
        "iou": dict(zip(classes, iou, strict=True)),
    }
