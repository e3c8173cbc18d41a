"""Records to batches: endless and shuffled for training, each record once for evaluation."""

import collections
import concurrent.futures
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import flags

from collabseg_jax.data.decode import decode_record, image_size
from collabseg_jax.data.spec import IGNORE, DatasetSpec
from collabseg_jax.data.transforms import pad_to, random_scale_crop_flip
from collabseg_jax.errors import InputError

Batch = dict[str, np.ndarray]


class TrainBatches:
    """An endless iterator of training batches; `close()` it, or use it in a `with`."""

    def __init__(self, iterator, *, copy: bool):
        """Wraps a grain iterator; `copy` gives every batch memory of its own."""
        self._iterator = iterator
        self._copy = copy

    def __iter__(self):
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch; an InputError of a worker or thread arrives as one line."""
        try:
            batch = next(self._iterator)
            # A worker's batch lies in shared memory, which leaks if it is still held at exit.
            return {key: np.array(value) for key, value in batch.items()} if self._copy else batch
        except Exception as error:
            if cause := _input_error(error):
                raise InputError(str(cause)) from None
            raise

    def close(self) -> None:
        """Ends threads and workers and frees their shared memory."""
        self._iterator.close()

    def __enter__(self):
        """Itself."""
        return self

    def __exit__(self, *_):
        """Closes."""
        self.close()


def train_batches(
    source: Sequence[Mapping],
    spec: DatasetSpec,
    *,
    batch_size: int,
    crop: tuple[int, int],
    scale_range: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    cat_max_ratio: float = 0.75,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> TrainBatches:
    """Endless augmented batches, a function of (seed, step) alone.

    The same bits come out for any number of workers, after a restart at any step, and in whatever
    way `rows` divides the batch among processes. Every epoch is a new order of all records.

    Args:
      source: random access to {"image": bytes, "label": bytes, "name": str}.
      spec: of the data set.
      batch_size: global, over all processes.
      crop: (h, w).
      scale_range: see `random_scale_crop_flip`, as flip and cat_max_ratio.
      flip: see there.
      cat_max_ratio: see there.
      seed: of order and augmentation, >= 0.
      start_step: batches to skip, without reading them.
      workers: processes that decode; 0 decodes in threads of this one. With workers, the main
        script needs its `if __name__ == "__main__"`, as always with spawned processes.
      rows: which rows of each global batch to make, in this order; None for all.

    Returns:
      an iterator of {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w], "valid": bool [b]},
      b = len(rows), valid all True.

    Raises:
      InputError: an argument is out of range, here; a record is bad, at `next`.
    """
    import grain  # it imports JAX and orbax, which evaluation of a picture does not need

    rows = _checked_rows(source, batch_size, rows)
    low, high = scale_range
    _require(len(crop) == 2 and min(crop) >= 1, "crop", crop, "(height, width), both >= 1")
    _require(0 < low <= high, "scale_range", scale_range, "0 < low <= high")
    _require(0 < cat_max_ratio <= 1, "cat_max_ratio", cat_max_ratio, "0 < ratio <= 1")
    _require(start_step >= 0, "start_step", start_step, ">= 0")
    _require(workers >= 0, "workers", workers, ">= 0")
    _require(0 <= seed < 2**32, "seed", seed, "0 .. 2**32 - 1")
    augment = functools.partial(
        _augment,
        crop=tuple(crop),
        scale_range=tuple(scale_range),
        flip=flip,
        cat_max_ratio=cat_max_ratio,
    )
    examples = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .map(functools.partial(decode_record, spec=spec))
        .random_map(augment)
    )
    # Taken AFTER shuffle and draws, which go by the place in the global order.
    mine = grain.MapDataset.source(_RowsOfBatches(examples, batch_size, rows))
    batches = mine.batch(len(rows), drop_remainder=True)[start_step:]
    threads = 1 if workers else _threads()
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    batches = batches.to_iter_dataset(read)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    return TrainBatches(iter(batches), copy=workers > 0)


def eval_batches(
    source: Sequence[Mapping],
    spec: DatasetSpec,
    *,
    batch_size: int,
    max_shapes: int = 8,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Whole images at their own size, each record exactly once over all processes.

    Images of one shape share batches, so that at most `max_shapes` programs are compiled; within a
    shape they keep their order. The number of batches and their shapes do not depend on `rows`.

    Args:
      source: as for `train_batches`.
      spec: of the data set.
      batch_size: global, over all processes.
      max_shapes: see `plan_buckets`.
      rows: as for `train_batches`.

    Returns:
      an iterator of {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w], "valid": bool [b],
      "index": int32 [b]}, b = len(rows); a row that fills up a last batch has valid False,
      label 255, index -1.

    Raises:
      InputError: an argument is out of range, or a header unreadable, here; a bad record, at next.
    """
    rows = _checked_rows(source, batch_size, rows)
    buckets = collections.defaultdict(list)
    for index, shape in enumerate(plan_buckets(_image_sizes(source), max_shapes)):
        buckets[shape].append(index)
    plan = []
    for shape, members in buckets.items():
        for start in range(0, len(members), batch_size):
            batch = members[start : start + batch_size]
            batch += [-1] * (batch_size - len(batch))
            plan.append(([batch[row] for row in rows], shape))
    return _read_ahead(functools.partial(_eval_batch, source, spec), plan)


def plan_buckets(sizes: Sequence[tuple[int, int]], max_shapes: int = 8) -> list[tuple[int, int]]:
    """The shape that each image is padded to, so that few shapes occur.

    Args:
      sizes: (height, width) per image.
      max_shapes: how many different shapes there may be, >= 1.

    Returns:
      (h, w) per image: its own size if few enough occur, else rounded up to multiples of 32, 64,
      128, ..., the first that is coarse enough.
    """
    _require(max_shapes >= 1, "max_shapes", max_shapes, ">= 1")
    shapes, multiple = [tuple(size) for size in sizes], 32
    while len(set(shapes)) > max_shapes:
        shapes = [tuple(-(-side // multiple) * multiple for side in size) for size in sizes]
        multiple *= 2
    return shapes


class _RowsOfBatches:
    """Of endless examples taken `batch_size` at a time, only some rows of each batch, in order."""

    def __init__(self, examples: Sequence, batch_size: int, rows: list[int]):
        self._examples, self._batch_size, self._rows = examples, batch_size, rows

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        step, i = divmod(index, len(self._rows))
        return self._examples[step * self._batch_size + self._rows[i]]


def _augment(example: Batch, rng: np.random.Generator, **options) -> Batch:
    image, label = random_scale_crop_flip(example["image"], example["label"], rng, **options)
    return {"image": image, "label": label, "valid": np.bool_(True)}


def _eval_batch(source, spec: DatasetSpec, indices: list[int], shape: tuple[int, int]) -> Batch:
    image = np.zeros((len(indices), *shape, 3), np.uint8)
    label = np.full((len(indices), *shape), IGNORE, np.uint8)
    for row, index in enumerate(indices):
        if index >= 0:
            example = decode_record(source[index], spec)
            image[row], label[row] = pad_to(example["image"], example["label"], shape)
    index = np.array(indices, np.int32)
    return {"image": image, "label": label, "valid": index >= 0, "index": index}


def _read_ahead(make, plan: list[tuple]) -> Iterator[Batch]:
    """make(*item) for each item in order, a few ahead of the reader."""
    threads = _threads()
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


def _image_sizes(source: Sequence[Mapping]) -> list[tuple[int, int]]:
    # Prepared records remember theirs, so that later evaluations do not read everything twice.
    if hasattr(source, "image_sizes"):
        return source.image_sizes
    records = (source[i] for i in range(len(source)))
    return [image_size(record["image"], record["name"]) for record in records]


def _checked_rows(source: Sequence, batch_size: int, rows: Sequence[int] | None) -> list[int]:
    """The rows to make, all if None."""
    _require(len(source) > 0, "data source", "no records", "at least one")
    _require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    rows = list(range(batch_size) if rows is None else rows)
    _require(
        len(rows) > 0 and set(rows) <= set(range(batch_size)),
        "rows",
        rows,
        f"at least one of 0 .. {batch_size - 1}",
    )
    return rows


def _require(condition: bool, what: str, found, expected: str) -> None:
    if not condition:
        raise InputError(f"{what}: found {found}, expected {expected}")


def _threads() -> int:
    """Half the cores, for the other half feeds the device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, max(1, cores // 2))


def _start_worker(worker_index: int, worker_count: int) -> None:
    """Leaves signals to the parent, which ends the workers itself, and ends with it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot end its workers, and grain's would wait for it for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _input_error(error: BaseException | None) -> InputError | None:
    """The InputError that lies at the bottom of an exception, if one does."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error
