"""Records to batches for training: endless, shuffled, augmented."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from collabseg_jax.data.balance import RepeatedEpochs
from collabseg_jax.data.batch import Batch, checked_rows, require
from collabseg_jax.data.decode import decode_record
from collabseg_jax.data.source import RandomAccess, Record, Source
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.data.threads import one_thread_per_image, reading_threads
from collabseg_jax.data.transforms import random_scale_crop_flip
from collabseg_jax.errors import InputError


class TrainBatches:
    """An endless iterator of training batches; `close()` it, or use it in a `with`."""

    def __init__(self, iterator: Any, *, copy: bool):
        """Wraps a grain iterator; `copy` gives every batch memory of its own."""
        self._iterator = iterator
        self._copy = copy

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch; an InputError of a worker or thread arrives as one line."""
        try:
            batch = next(self._iterator)
            # A worker's batch is in shared memory, which leaks if it is still held at exit.
            return {key: np.array(value) for key, value in batch.items()} if self._copy else batch
        except Exception as error:
            if cause := _input_error(error):
                raise InputError(str(cause)) from None
            raise

    def close(self) -> None:
        """Ends threads and workers and frees their shared memory."""
        self._iterator.close()

    def __enter__(self) -> "TrainBatches":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


def train_batches(
    source: Source,
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
    rates: np.ndarray | None = None,
    cache: bool = False,
) -> TrainBatches:
    """Endless augmented batches, a function of (seed, step) alone.

    The bits are the same for any number of workers, after a restart at any step, and however `rows`
    divides the batch among processes. Every epoch is a new order of all records, each once or as
    often as `rates` say.

    Args:
      source: the records, N >= 1.
      spec: of the data set.
      batch_size: global, over all processes, >= 1.
      crop: (h, w) in pixels.
      scale_range: (low, high) of the random scale, see `random_scale_crop_flip`.
      flip: whether to mirror half of the images, see there.
      cat_max_ratio: the largest share of one class in a crop, in (0, 1], see there.
      seed: of order and augmentation, >= 0.
      start_step: batches to skip, >= 0, without reading them.
      workers: processes that decode; 0 decodes in threads of this one. With workers, the main
        script needs its `if __name__ == "__main__"`, as always with spawned processes.
      rows: which rows of each global batch to make, in this order; None for all.
      rates: how often each record is drawn in an epoch, [N] and >= 1, see
        `balance.repeat_factors`; None for once.
      cache: whether to keep every decoded record in memory, `cache_bytes` in total; only without
        workers, since each would keep its own. The batches stay the same.

    Returns:
      an iterator of {"image": uint8 [b, h, w, 3], "label": uint8 [b, h, w], "valid": bool [b]},
      b = len(rows), valid all True.

    Raises:
      InputError: an argument is out of range, here; a record is bad, at `next`.

    Example:
      >>> import cv2, numpy as np
      >>> from collabseg_jax import data
      >>> png = lambda pixels: cv2.imencode(".png", pixels)[1].tobytes()
      >>> image, label = np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8)
      >>> record = {"image": png(image), "label": png(label), "name": "a"}
      >>> options = {"batch_size": 2, "crop": (32, 32)}
      >>> spec = data.get_spec("camvid")
      >>> with data.train_batches(data.InMemory([record]), spec, **options) as batches:
      ...     next(batches)["image"].shape
      (2, 32, 32, 3)
    """
    import grain  # it imports JAX and orbax, which evaluation of a picture does not need

    rows = checked_rows(source, batch_size, rows)
    low, high = scale_range
    require(len(crop) == 2 and min(crop) >= 1, "crop", crop, "(height, width), both >= 1")
    require(0 < low <= high, "scale_range", scale_range, "0 < low <= high")
    require(0 < cat_max_ratio <= 1, "cat_max_ratio", cat_max_ratio, "0 < ratio <= 1")
    require(start_step >= 0, "start_step", start_step, ">= 0")
    require(workers >= 0, "workers", workers, ">= 0")
    require(0 <= seed < 2**32, "seed", seed, "0 .. 2**32 - 1")
    require(not (cache and workers), "data.workers", workers, "0 with data.cache")
    if rates is not None:
        valid = len(rates) == len(source) and np.isfinite(rates).all() and min(rates) >= 1
        require(bool(valid), "rates", rates, f"{len(source)} finite numbers >= 1")
    augment = functools.partial(
        _augment,
        crop=tuple(crop),
        scale_range=tuple(scale_range),
        flip=flip,
        cat_max_ratio=cat_max_ratio,
    )
    decode: Callable[[Any], Batch] = functools.partial(decode_record, spec=spec)
    records: RandomAccess[Any] = source
    if cache:
        records, decode = _DecodedOnce(source, decode), _identity
    if rates is None:
        order = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    else:
        order = grain.MapDataset.source(RepeatedEpochs(records, rates, seed)).seed(seed)
    # The random draws depend on the length of the chain, so a cache must not make it shorter.
    examples = order.map(decode).random_map(augment)
    # Taken AFTER shuffling and drawing, which depend on the position in the global order.
    mine = grain.MapDataset.source(_RowsOfBatches(examples, batch_size, rows))
    batches = mine.batch(len(rows), drop_remainder=True)[start_step:]
    threads = 1 if workers else reading_threads()
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
    batches = batches.to_iter_dataset(read)
    if workers:
        if not flags.FLAGS.is_parsed():  # in a program that has no absl flags
            flags.FLAGS.mark_as_parsed()  # grain reads them where it starts workers
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_start_worker)
    else:
        one_thread_per_image()
    return TrainBatches(iter(batches), copy=workers > 0)


def cache_bytes(source: Source) -> int:
    """The bytes that `train_batches(cache=True)` keeps in memory once it has seen every record."""
    return sum(4 * height * width for height, width in source.image_sizes)


class _DecodedOnce:
    """A source of decoded examples, each read and decoded when it is first asked for."""

    def __init__(self, source: RandomAccess[Record], decode: Callable[[Record], Batch]):
        self._source, self._decode = source, decode
        self._kept: dict[int, Batch] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Batch:
        example = self._kept.get(index)
        if example is None:
            example = self._kept[index] = self._decode(self._source[index])
            for array in example.values():
                array.setflags(write=False)
        return example


def _identity(example: Batch) -> Batch:
    return example


class _RowsOfBatches:
    """Of endless examples taken `batch_size` at a time, only some rows of each batch, in order."""

    def __init__(self, examples: RandomAccess[Batch], batch_size: int, rows: list[int]):
        self._examples, self._batch_size, self._rows = examples, batch_size, rows

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        step, i = divmod(index, len(self._rows))
        return self._examples[step * self._batch_size + self._rows[i]]


def _augment(example: Batch, rng: np.random.Generator, **options: Any) -> Batch:
    image, label = random_scale_crop_flip(example["image"], example["label"], rng, **options)
    return {"image": image, "label": label, "valid": np.array(True)}


def _start_worker(worker_index: int, worker_count: int) -> None:
    """Prepares a worker, which leaves signals to its parent and ends with it."""
    one_thread_per_image()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A killed parent cannot end its workers, and grain's would wait for it forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _input_error(error: BaseException | None) -> InputError | None:
    """The InputError among the causes of an exception, if there is one."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error
