import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data import decode
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

from . import trees

SPEC = data.get_spec("camvid")
RECORDS = trees.records(7)


def batches(count, source=RECORDS, **options):
    options = {"batch_size": 4, "crop": (16, 20), "seed": 5, **options}
    with data.train_batches(source, SPEC, **options) as iterator:
        return [next(iterator) for _ in range(count)]


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


class Counting(data.InMemory):
    """Records that know who was read."""

    def __init__(self, items):
        super().__init__(items)
        self.read = []

    def __getitem__(self, index):
        self.read.append(int(index))
        return super().__getitem__(index)


def test_train_batches_are_what_they_promise():
    for batch in batches(3):
        assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
            "image": ((4, 16, 20, 3), "uint8"),
            "label": ((4, 16, 20), "uint8"),
            "valid": ((4,), "bool"),
        }
        assert batch["valid"].all()
        assert set(np.unique(batch["label"])) <= {*range(11), IGNORE}


def test_the_seed_decides_everything():
    assert_same(batches(4), batches(4))
    assert any(
        (one["image"] != other["image"]).any()
        for one, other in zip(batches(4), batches(4, seed=6), strict=True)
    )


def test_every_epoch_is_a_new_order_of_all_records():
    source = Counting(RECORDS)
    batches(14, source, batch_size=1)
    first, second = source.read[:7], source.read[7:14]
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_a_record_is_augmented_anew_in_every_epoch():
    images = [batch["image"].tobytes() for batch in batches(6, RECORDS[:1], batch_size=1)]
    assert len(set(images)) == 6


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
def test_resuming_continues_bit_for_bit_and_skips_unread(step):
    if step < 100:
        assert_same(batches(3, start_step=step), batches(step + 3)[step:])
    source = Counting(RECORDS)
    batches(1, source, start_step=step)
    assert len(source.read) <= 4 * 8  # what is read ahead, not what was skipped


def only_rows(several, rows):
    return [{key: value[rows] for key, value in batch.items()} for batch in several]


@pytest.mark.parametrize("rows", [[0, 1], [2, 3], [1, 3], [2]])
def test_a_process_gets_its_rows_of_the_same_batches(rows):
    mine = batches(5, rows=rows)
    assert mine[0]["image"].shape[0] == len(rows)
    assert_same(mine, only_rows(batches(5), rows))


def bad_records():
    label = trees.indices(0)
    label[3, 4] = 77
    return data.InMemory({**record, "label": trees.encode(label)} for record in RECORDS)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_record_is_one_line(workers):
    with pytest.raises(InputError) as error:
        batches(1, bad_records(), workers=workers)
    assert "label value 77 at row 3, column 4" in str(error.value)
    assert "\n" not in str(error.value) and "Error" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_prepared_records_go_to_workers(tmp_path, capfd):
    raw = trees.camvid(tmp_path / "raw")
    prepared = data.prepare("camvid", raw_dir=str(raw), data_dir=str(tmp_path / "tfds"))
    source = prepared.source("train")
    capfd.readouterr()
    assert_same(batches(3, source, workers=1), batches(3, source))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options,message",
    [
        ({"rows": [0, 4]}, r"rows: found \[0, 4\], expected at least one of 0 .. 3"),
        ({"rows": []}, "rows: found"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"crop": (0, 5)}, "crop: found"),
        ({"scale_range": (2, 1)}, "scale_range: found"),
        ({"scale_range": (0, 1)}, "scale_range: found"),
        ({"cat_max_ratio": 0}, "cat_max_ratio: found 0"),
        ({"workers": -1}, "workers: found -1"),
        ({"start_step": -1}, "start_step: found -1"),
        ({"seed": -1}, "seed: found -1"),
        ({"source": []}, "data source: found no records"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        batches(1, **options)


def evaluate(source, process_count=1, **options):
    shares = np.array_split(range(4), process_count)
    return [
        list(data.eval_batches(source, SPEC, batch_size=4, rows=rows.tolist(), **options))
        for rows in shares
    ]


def assert_each_record_once(source, processes):
    seen = [
        (int(index), batch["image"][row], batch["label"][row])
        for batches in processes
        for batch in batches
        for row, index in enumerate(batch["index"])
        if batch["valid"][row]
    ]
    assert sorted(index for index, _, _ in seen) == list(range(len(source)))
    for index, image, label in seen:
        expected = decode.decode_record(source[index], SPEC)
        height, width = expected["label"].shape
        np.testing.assert_array_equal(image[:height, :width], expected["image"])
        np.testing.assert_array_equal(label[:height, :width], expected["label"])
        assert (label[height:] == IGNORE).all() and (label[:, width:] == IGNORE).all()
    for batches in processes:
        for batch in batches:
            padding = ~batch["valid"]
            assert (batch["label"][padding] == IGNORE).all()
            assert (batch["index"][padding] == -1).all()


MANY_SIZES = [(20 + 7 * i, 40 + 11 * (i * 5 % 12)) for i in range(12)]


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("sizes", [[(24, 32)], [(24, 32), (32, 24), (9, 5)], MANY_SIZES])
@pytest.mark.parametrize("count", [1, 4, 13])
def test_evaluation_sees_each_record_once(count, sizes, process_count):
    source = trees.records(count, sizes)
    processes = evaluate(source, process_count)
    assert_each_record_once(source, processes)
    shapes = [[batch["image"].shape for batch in batches] for batches in processes]
    assert all(each == shapes[0] for each in shapes)  # else a collective would hang
    assert len(set(shapes[0])) <= 8
    for batch in processes[0]:
        assert batch["image"].shape[0] == 4 // process_count
        assert batch["index"].dtype == np.int32 and batch["valid"].dtype == bool


def test_evaluation_of_one_size_keeps_the_order_and_pads_nothing():
    [evaluated] = evaluate(trees.records(7, sizes=((33, 40),)))
    order = np.concatenate([batch["index"] for batch in evaluated])
    assert order.tolist() == [*range(7), -1]
    assert {batch["image"].shape for batch in evaluated} == {(4, 33, 40, 3)}


def test_tiny_images_are_padded_to_what_the_students_take():
    [evaluated] = evaluate(RECORDS)
    assert trees.SIZE == (24, 32)
    assert {batch["image"].shape for batch in evaluated} == {(4, 32, 32, 3)}
    assert all((batch["label"][:, 24:] == IGNORE).all() for batch in evaluated)


def test_a_bad_record_in_evaluation():
    with pytest.raises(InputError, match="label value 77"):
        evaluate(bad_records())


def test_leaving_an_evaluation_early():
    iterator = data.eval_batches(trees.records(30), SPEC, batch_size=2)
    next(iterator)
    iterator.close()
    with pytest.raises(StopIteration):
        next(iterator)


def test_buckets():
    few = [(48, 64), (64, 48), (48, 64)]
    assert data.plan_buckets(few, 2) == few
    assert data.plan_buckets(few, 1) == [(64, 64)] * 3
    assert data.plan_buckets([(24, 100)], 1) == [(32, 100)]
    sizes = [(100 + 13 * i % 500, 200 + 29 * i % 700) for i in range(300)]
    for most in (1, 2, 8, 30):
        plan = data.plan_buckets(sizes, most)
        assert len(set(plan)) <= most
        assert all(h <= H and w <= W for (h, w), (H, W) in zip(sizes, plan, strict=True))
    assert data.plan_buckets([], 8) == []
    with pytest.raises(InputError, match="max_shapes: found 0"):
        data.plan_buckets(few, 0)
