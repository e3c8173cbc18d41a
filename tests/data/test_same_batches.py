"""The same seed gives the same batches, whatever makes them: a property, and a few fixed cases.

What every case is held against is one plain loop over the records in the order that is asked for,
written here: no thread, no worker, no cache, no restart.
"""

import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from collabseg_jax import data
from collabseg_jax.data import balance, decode, transforms
from collabseg_jax.errors import InputError

from . import trees

SPEC = data.get_spec("camvid")
CROP, LAST = (12, 20), 6
RECORDS = {count: trees.records(count, [(24, 32), (17, 40)]) for count in (1, 3, 7)}
RATES = (1.0, 1.7, 1.0, 2.25, 1.2, 1.0, 1.0)


@functools.cache
def examples(count, seed, oversample):
    """Decoded and augmented by hand, one after the other, as many as any case needs."""
    import grain

    records = RECORDS[count]
    if oversample:
        order = balance.RepeatedEpochs(range(count), RATES[:count], seed)
        chain = grain.MapDataset.source(order).seed(seed)
    else:
        chain = grain.MapDataset.source(range(count)).seed(seed).shuffle().repeat()

    def augment(index, rng):
        record = decode.decode_record(records[index], SPEC)
        return transforms.random_scale_crop_flip(record["image"], record["label"], rng, crop=CROP)

    drawn = chain.map(lambda index: index).random_map(augment)
    return [drawn[i] for i in range(5 * LAST)]


def expected(step, rows, batch_size, **of):
    chosen = [examples(**of)[step * batch_size + row] for row in rows]
    return [np.stack(arrays) for arrays in zip(*chosen, strict=True)]


@st.composite
def cases(draw):
    batch_size = draw(st.integers(1, 5))
    count = draw(st.sampled_from(sorted(RECORDS)))
    processes = draw(st.integers(1, min(2, batch_size)))
    start = draw(st.integers(0, LAST - 1))
    return {
        "count": count,
        "batch_size": batch_size,
        "processes": processes,
        "start": start,
        "steps": draw(st.integers(1, LAST - start)),
        "seed": draw(st.integers(0, 2)),
        "oversample": draw(st.booleans()),
        "subset": draw(st.booleans()),
        "cache": draw(st.booleans()),
    }


def check(count, batch_size, processes, start, steps, seed, oversample, subset, cache, workers=0):
    """Every process makes its rows of the batches that the plain loop gives."""
    source = RECORDS[count]
    if subset:  # from two splits joined, in which the records lie apart
        other = trees.records(2)
        joined = data.selection.Joined([other, source[:1], other, source[1:] or other])
        places = [2, *range(5, 5 + count)][:count]
        source = data.selection.Subset(joined, places)
    for rows in np.array_split(range(batch_size), processes):
        batches = data.train_batches(
            source,
            SPEC,
            batch_size=batch_size,
            crop=CROP,
            seed=seed,
            start_step=start,
            workers=workers,
            rows=rows.tolist(),
            rates=RATES[:count] if oversample else None,
            cache=cache,
        )
        with batches:
            for step in range(start, start + steps):
                batch, of = next(batches), {"count": count, "seed": seed, "oversample": oversample}
                assert all(type(value) is np.ndarray for value in batch.values())
                image, label = expected(step, rows, batch_size, **of)
                np.testing.assert_array_equal(batch["image"], image)
                np.testing.assert_array_equal(batch["label"], label)


@hypothesis.given(cases())
@hypothesis.settings(deadline=None, max_examples=40)
def test_processes_restarts_and_options(case):
    check(**case)


# Each worker takes seconds to start, so these are few; the slow test below draws more.
@pytest.mark.parametrize(
    "workers,processes,oversample",
    [(1, 1, True), (2, 2, False), (3, 1, True)],
)
def test_workers(workers, processes, oversample):
    options = {"seed": 1, "oversample": oversample, "subset": True, "cache": False}
    check(7, 4, processes, start=2, steps=4, workers=workers, **options)


@pytest.mark.slow
@hypothesis.given(cases(), st.integers(1, 3))
@hypothesis.settings(deadline=None, max_examples=15)
def test_workers_processes_restarts_and_options(case, workers):
    check(**case | {"cache": False}, workers=workers)


def test_a_cache_reads_each_record_once():
    read = []

    class Counting(data.InMemory):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    source = Counting(RECORDS[7])
    with data.train_batches(source, SPEC, batch_size=7, crop=CROP, cache=True) as batches:
        for _ in range(6):
            next(batches)
    # Threads may come to a record at once, and then decode it twice.
    assert sorted(set(read)) == list(range(7)) and len(read) <= 10
    assert data.cache_bytes(source) == 4 * sum(h * w for h, w in source.image_sizes)


def test_rates_that_cannot_be():
    for rates in ([1.0], [1.0, 0.5, 1.0], [1.0, np.inf, 1.0]):
        with pytest.raises(InputError, match="rates: found .*3 finite numbers >= 1"):
            data.train_batches(RECORDS[3], SPEC, batch_size=1, crop=CROP, rates=rates)
    with pytest.raises(InputError, match="data.workers: found 1, expected 0 with"):
        data.train_batches(RECORDS[3], SPEC, batch_size=1, crop=CROP, cache=True, workers=1)
