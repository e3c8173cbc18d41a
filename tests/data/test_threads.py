"""Results in order, no further ahead than said, errors at their turn; OpenCV without threads."""

import threading
import time

import cv2
import pytest

from collabseg_jax import data
from collabseg_jax.data.threads import read_ahead, reading_threads
from collabseg_jax.errors import InputError

from . import trees

SPEC = data.get_spec("camvid")


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(threads):
    def make(i):
        time.sleep(0.01 * (i % 3 == 0))  # a later one is ready first
        return i, threading.current_thread()

    results = list(read_ahead(make, range(20), threads=threads))
    assert [i for i, _ in results] == list(range(20))
    used = {thread for _, thread in results}
    assert len(used) <= max(1, threads)
    assert (threading.current_thread() in used) == (threads == 0)


@pytest.mark.parametrize("threads,ahead", [(0, 0), (2, 2)])
def test_an_endless_sequence_is_read_only_so_far(threads, ahead):
    taken = []

    def items():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = read_ahead(lambda i: i, items(), threads=threads)
    assert not taken  # nothing is read before the first result is asked for
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(taken) == 5 + ahead
    results.close()
    assert len(taken) == 5 + ahead


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_at_its_turn(threads):
    def make(i):
        if i == 3:
            raise InputError("the fourth")
        return i

    results = read_ahead(make, range(10), threads=threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="^the fourth$"):
        next(results)


def test_some_threads_read():
    assert 1 <= reading_threads() <= 4


class Telling(data.InMemory):
    """Says in an error how many threads OpenCV has where the records are read."""

    def __getitem__(self, index):
        raise InputError(f"{cv2.getNumThreads()} threads")


@pytest.fixture
def two_threads():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    if cv2.getNumThreads() != 2:
        pytest.skip("this OpenCV has no threads")
    yield
    cv2.setNumThreads(before)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_decodes_each_image_in_one_thread(workers, two_threads):
    options = {"batch_size": 1, "crop": (8, 8), "workers": workers}
    with (
        data.train_batches(Telling(trees.records(2)), SPEC, **options) as batches,
        pytest.raises(InputError, match="^1 threads$"),
    ):
        next(batches)
    assert cv2.getNumThreads() == (2 if workers else 1)


def test_evaluation_and_counting_decode_each_image_in_one_thread(two_threads):
    source = Telling(trees.records(2))
    with pytest.raises(InputError, match="^1 threads$"):
        source.class_pixels(SPEC)
    cv2.setNumThreads(2)
    assert len(list(data.eval_batches(trees.records(2), SPEC, batch_size=1))) == 2
    assert cv2.getNumThreads() == 1


def test_a_check_decodes_each_image_in_one_thread(two_threads, tmp_path):
    assert data.check("camvid", raw_dir=str(trees.camvid(tmp_path))).report["errors"] == []
    assert cv2.getNumThreads() == 1
