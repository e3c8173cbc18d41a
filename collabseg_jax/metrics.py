"""Confusion matrices on the device, exact sums of them and scores on the host."""

from collections.abc import Sequence
from typing import Any

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from collabseg_jax.labels import IGNORE


def confusion_matrix(
    predictions: jax.Array, labels: jax.Array, *, num_classes: int, ignore_label: int = IGNORE
) -> jax.Array:
    """Count (label, prediction) pairs.

    Args:
      predictions: [...] integer in [0, K).
      labels: [...] integer in [0, K), or `ignore_label`; same shape.
      num_classes: K.
      ignore_label: the label of pixels without one; they are not counted.

    Returns:
      [K, K] int32; rows are labels, columns predictions. Exact below 2^31 pixels a call.

    Example:
      >>> predictions = jnp.array([0, 1, 1, 0])
      >>> labels = jnp.array([0, 1, 0, 255])
      >>> confusion_matrix(predictions, labels, num_classes=2).tolist()
      [[1, 1], [0, 1]]
    """
    valid = labels != ignore_label
    labels = jnp.where(valid, labels, 0).astype(jnp.int32)
    index = jnp.where(valid, labels * num_classes + predictions.astype(jnp.int32), num_classes**2)
    counts = jnp.bincount(index.reshape(-1), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def scores(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of a whole set from its summed confusion matrix.

    Args:
      confusion: [K, K] counts; rows are labels, columns predictions.
      classes: K class names.

    Returns:
      {"miou", "pixel_accuracy", "mean_accuracy", "iou": {class: value}}, all in [0, 1]. A class
        with an empty union has IoU None and is left out of the mIoU; the mean accuracy is over
        classes that occur in the labels. What has nothing to score is None.

    Raises:
      ValueError: the matrix is not one of these classes.

    Source:
      Long et al. 2015, section 5.

    Example:
      >>> result = scores(np.array([[3, 1], [0, 4]]), ("road", "sky"))
      >>> result["iou"]  # 3 / (3 + 1 + 0) and 4 / (4 + 1)
      {'road': 0.75, 'sky': 0.8}
      >>> result["miou"], result["pixel_accuracy"]  # and 7 / 8
      (0.775, 0.875)
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


@flax.struct.dataclass
class Confusion(clu.metrics.Metric):
    """A confusion matrix that is summed over batches.

    `from_model_output` may be compiled. The sums are taken on the host in int64: JAX counts in
    int32, and 1,024 images of 2048x1024 pixels reach its limit of 2^31.

    Attributes:
      counts: [K, K] integer; rows are labels, columns predictions.

    Example:
      >>> labels = jnp.array([0, 1])
      >>> first = Confusion.from_model_output(jnp.array([0, 1]), labels, num_classes=2)
      >>> second = Confusion.from_model_output(jnp.array([0, 0]), labels, num_classes=2)
      >>> total = Confusion.empty(2).merge(first).merge(second)
      >>> total.counts.tolist(), total.compute()["pixel_accuracy"]
      ([[2, 0], [1, 1]], 0.75)
    """

    counts: jax.Array | np.ndarray

    @classmethod
    def empty(cls, num_classes: int = 1) -> "Confusion":
        """No pixels yet.

        Args:
          num_classes: K. The default, a single 0, may be merged with any K.
        """
        return cls(counts=np.zeros((num_classes, num_classes), np.int64))

    @classmethod
    def from_model_output(
        cls, predictions: jax.Array, labels: jax.Array, *, num_classes: int, **_: Any
    ) -> "Confusion":
        """The pixels of one batch; see `confusion_matrix`. Other keywords are not read."""
        return cls(counts=confusion_matrix(predictions, labels, num_classes=num_classes))

    def merge(self, other: "Confusion") -> "Confusion":
        """The pixels of both, on the host."""
        return Confusion(
            counts=np.asarray(self.counts, np.int64) + np.asarray(other.counts, np.int64)
        )

    def reduce(self) -> "Confusion":
        """The sum of [n, K, K] counts over their first axis, on the host."""
        return Confusion(counts=np.asarray(self.counts, np.int64).sum(0))

    def compute(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """The scores of all pixels, as `scores` gives them.

        Args:
          classes: K class names; None names the classes by their numbers, "0", "1", ...
        """
        return scores(np.asarray(self.counts), classes or [str(i) for i in range(len(self.counts))])
