"""Records to batches for evaluation: whole images, each exactly once."""

import collections
import concurrent.futures
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from collabseg_jax.data.batch import Batch, checked_rows, reading_threads, require
from collabseg_jax.data.decode import decode_record
from collabseg_jax.data.selection import image_sizes
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.transforms import MIN_SIDE, network_size, pad_image, pad_label, resize_image
from collabseg_jax.labels import IGNORE


def eval_batches(
    source: Sequence[Mapping],
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
      source: as for `train_batches`.
      spec: of the data set.
      batch_size: global, over all processes.
      max_shapes: see `plan_buckets`.
      short_side: what the shorter side of every image becomes, > 0; 0: images stay as they are.
        Labels always do.
      rows: as for `train_batches`.

    Returns:
      an iterator of {"image": uint8 [b, h, w, 3], "label": uint8 [b, H, W], "valid": bool [b],
      "index": int32 [b]}, b = len(rows), h >= 32 and w >= 32; a row that fills up a last batch has
      valid False, label 255, index -1. With `short_side`, also "sizes" int32 [b, 4]: height and
      width of the image and of the label, without their padding. Without, (h, w) = (H, W).

    Raises:
      InputError: an argument is out of range, or a header unreadable, here; a bad record, at next.
    """
    rows = checked_rows(source, batch_size, rows)
    sizes = image_sizes(source)
    buckets = collections.defaultdict(list)
    for index, shape in enumerate(plan_buckets(sizes, max_shapes)):
        buckets[shape].append(index)
    plan = []
    for shape, members in buckets.items():
        # Images of one label shape have about one aspect: so they share one shape too.
        image_shape = shape
        if short_side:
            seen = [network_size(sizes[index], short_side=short_side) for index in members]
            image_shape = tuple(-(-side // MIN_SIDE) * MIN_SIDE for side in np.max(seen, axis=0))
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            batch += [-1] * (batch_size - len(batch))
            plan.append(([batch[row] for row in rows], image_shape, shape))
    return _read_ahead(functools.partial(_eval_batch, source, spec, short_side), plan)


def plan_buckets(sizes: Sequence[tuple[int, int]], max_shapes: int = 8) -> list[tuple[int, int]]:
    """The shape that each image is padded to, so that few shapes occur.

    Args:
      sizes: (height, width) per image.
      max_shapes: how many different shapes there may be, >= 1.

    Returns:
      (h, w) per image, both at least 32: its own size if few enough occur, else rounded up to
      multiples of 32, 64, 128, ..., the first that is coarse enough.
    """
    require(max_shapes >= 1, "max_shapes", max_shapes, ">= 1")
    shapes, multiple = [tuple(max(MIN_SIDE, side) for side in size) for size in sizes], 32
    while len(set(shapes)) > max_shapes:
        shapes = [tuple(-(-side // multiple) * multiple for side in size) for size in sizes]
        multiple *= 2
    return shapes


def _eval_batch(
    source, spec: DatasetSpec, short_side: int, indices: list[int], image_shape, label_shape
) -> Batch:
    image = np.zeros((len(indices), *image_shape, 3), np.uint8)
    label = np.full((len(indices), *label_shape), IGNORE, np.uint8)
    sizes = np.tile(np.array((*image_shape, *label_shape), np.int32), (len(indices), 1))
    for row, index in enumerate(indices):
        if index >= 0:
            example = decode_record(source[index], spec)
            size = example["label"].shape
            seen = network_size(size, short_side=short_side)
            sizes[row] = (*seen, *size)
            image[row] = pad_image(resize_image(example["image"], seen), image_shape)
            label[row] = pad_label(example["label"], label_shape)
    index = np.array(indices, np.int32)
    batch = {"image": image, "label": label, "valid": index >= 0, "index": index}
    return batch | {"sizes": sizes} if short_side else batch


def _read_ahead(make, plan: list[tuple]) -> Iterator[Batch]:
    """make(*item) for each item in order, a few ahead of the reader."""
    threads = reading_threads()
    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="eval-batches")
    todo, running = iter(plan), collections.deque()
    try:
        for item in todo:
            running.append(pool.submit(make, *item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
