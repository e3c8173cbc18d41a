"""Records to batches for evaluation: whole images, each exactly once."""

import collections
from collections.abc import Iterator, Sequence

import numpy as np

from collabseg_jax.data.batch import Batch, checked_rows, require
from collabseg_jax.data.decode import decode_record
from collabseg_jax.data.source import Size, Source
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.threads import one_thread_per_image, read_ahead, reading_threads
from collabseg_jax.data.transforms import MIN_SIDE, network_size, pad_image, pad_label, resize_image
from collabseg_jax.labels import IGNORE


def eval_batches(
    source: Source,
    spec: DatasetSpec,
    *,
    batch_size: int,
    max_shapes: int = 8,
    short_side: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Whole images with labels of their own size, each record exactly once over all processes.

    Images of one shape share batches, so that at most `max_shapes` programs are compiled; within a
    shape they keep their order. The number of batches and their shapes do not depend on `rows`.

    Args:
      source: the records, N >= 1.
      spec: of the data set.
      batch_size: global, over all processes, >= 1.
      max_shapes: how many image shapes may occur, >= 1; see `plan_buckets`.
      short_side: what the shorter side of every image becomes, in pixels, > 0; 0: images keep their
        size. Labels always do.
      rows: which rows of each global batch to make, in this order; None for all.

    Returns:
      an iterator of {"image": uint8 [b, h, w, 3], "label": uint8 [b, H, W], "valid": bool [b],
      "index": int32 [b]}, b = len(rows), h >= 32 and w >= 32; a row that fills up a last batch has
      valid False, label 255, index -1. With `short_side`, also "sizes" int32 [b, 4]: height and
      width of the image and of the label, without their padding. Without, (h, w) = (H, W).

    Raises:
      InputError: an argument is out of range, or a header unreadable, here; a bad record, at next.

    Example:
      >>> import cv2, numpy as np
      >>> from collabseg_jax import data
      >>> png = lambda pixels: cv2.imencode(".png", pixels)[1].tobytes()
      >>> image, label = np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8)
      >>> record = {"image": png(image), "label": png(label), "name": "a"}
      >>> source = data.InMemory([record] * 5)
      >>> batches = data.eval_batches(source, data.get_spec("camvid"), batch_size=2)
      >>> [batch["valid"].tolist() for batch in batches]
      [[True, True], [True, True], [True, False]]
    """
    rows = checked_rows(source, batch_size, rows)
    sizes = source.image_sizes
    buckets = collections.defaultdict(list)
    for index, shape in enumerate(plan_buckets(sizes, max_shapes)):
        buckets[shape].append(index)
    plan = []
    for shape, members in buckets.items():
        # Images of one label shape have similar aspect ratios, so they share one shape too.
        image_shape = shape
        if short_side:
            seen = [network_size(sizes[index], short_side=short_side) for index in members]
            height, width = np.max(seen, axis=0)
            image_shape = _round_up(height, MIN_SIDE), _round_up(width, MIN_SIDE)
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            batch += [-1] * (batch_size - len(batch))
            plan.append(([batch[row] for row in rows], image_shape, shape))

    def make(item: tuple[list[int], Size, Size]) -> Batch:
        return _eval_batch(source, spec, short_side, *item)

    one_thread_per_image()
    return read_ahead(make, plan, threads=reading_threads())


def plan_buckets(sizes: Sequence[Size], max_shapes: int = 8) -> list[Size]:
    """The shape that each image is padded to, so that few shapes occur.

    Args:
      sizes: (height, width) of each image, in pixels.
      max_shapes: how many different shapes there may be, >= 1.

    Returns:
      (h, w) of each image, both at least 32: its own size if few enough occur, else rounded up to
      multiples of 32, 64, 128, ..., the first that is coarse enough.

    Raises:
      InputError: `max_shapes` is out of range.

    Example:
      >>> from collabseg_jax import data
      >>> data.plan_buckets([(48, 64), (64, 48), (50, 60)], max_shapes=1)
      [(64, 64), (64, 64), (64, 64)]
    """
    require(max_shapes >= 1, "max_shapes", max_shapes, ">= 1")
    shapes, multiple = [(max(MIN_SIDE, h), max(MIN_SIDE, w)) for h, w in sizes], 32
    while len(set(shapes)) > max_shapes:
        shapes = [(_round_up(h, multiple), _round_up(w, multiple)) for h, w in sizes]
        multiple *= 2
    return shapes


def _round_up(side: int, multiple: int) -> int:
    return -(-int(side) // multiple) * multiple


def _eval_batch(
    source: Source,
    spec: DatasetSpec,
    short_side: int,
    indices: list[int],
    image_shape: Size,
    label_shape: Size,
) -> Batch:
    image = np.zeros((len(indices), *image_shape, 3), np.uint8)
    label = np.full((len(indices), *label_shape), IGNORE, np.uint8)
    sizes = np.tile(np.array((*image_shape, *label_shape), np.int32), (len(indices), 1))
    for row, index in enumerate(indices):
        if index >= 0:
            example = decode_record(source[index], spec)
            height, width = example["label"].shape
            seen = network_size((height, width), short_side=short_side)
            sizes[row] = (*seen, height, width)
            image[row] = pad_image(resize_image(example["image"], seen), image_shape)
            label[row] = pad_label(example["label"], label_shape)
    which = np.array(indices, np.int32)
    batch = {"image": image, "label": label, "valid": which >= 0, "index": which}
    return batch | {"sizes": sizes} if short_side else batch
