"""Joined splits, shares and lists: which records are chosen, and what is refused."""

import hashlib
import math
import pickle
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from collabseg_jax import data
from collabseg_jax.data import counts, decode
from collabseg_jax.errors import InputError

from . import trees

SPEC = data.get_spec("camvid")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    return data.prepare(
        "camvid", raw_dir=str(trees.camvid(root / "raw")), data_dir=str(root / "tfds")
    )


class Names:
    """Records that have only a name."""

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return {"name": self.names[index]}


def chosen(source, text):
    subset = data.choose(source, text)
    return [subset[i]["name"] for i in range(len(subset))]


def expected_pixels(source):
    """Counted value by value."""
    labels = [decode.decode_record(source[i], SPEC)["label"] for i in range(len(source))]
    return [[(label == k).sum() for k in range(SPEC.num_classes)] for label in labels]


def test_joined_splits_are_one_after_the_other(prepared):
    both = prepared.source("val+train")
    names = [f"val_{i:03d}" for i in range(3)] + [f"train_{i:03d}" for i in range(5)]
    assert len(both) == 8 and [both[i]["name"] for i in range(8)] == names == both.names
    assert both.image_sizes == [trees.SIZE] * 8
    for i, split, j in ((0, "val", 0), (2, "val", 2), (3, "train", 0), (7, "train", 4)):
        assert both[i] == prepared.source(split)[j]
    with pytest.raises(IndexError):
        both[8]
    copy = pickle.loads(pickle.dumps(prepared.source("val+train")))
    assert copy[3] == both[3] and len(pickle.dumps(copy)) < 20_000
    np.testing.assert_array_equal(both.class_pixels(SPEC), expected_pixels(both))
    assert type(prepared.source("train")) is type(prepared.source("val"))


def test_all_sources_say_the_same_of_the_same_records(prepared):
    copy = prepared.source("train+val")
    first, second = prepared.source("train"), prepared.source("val")
    in_memory = data.InMemory(copy[i] for i in range(len(copy)))
    sources = [
        copy,
        in_memory,
        data.selection.Joined([data.InMemory(first[i] for i in range(5)), second]),
        data.selection.Subset(data.selection.Joined([second, in_memory]), range(3, 11)),
    ]
    names = [f"train_{i:03d}" for i in range(5)] + [f"val_{i:03d}" for i in range(3)]
    for source in sources:
        assert source.names == names and len(source) == 8
        assert source.image_sizes == [trees.SIZE] * 8
        assert [source[i] for i in range(8)] == list(in_memory)
        np.testing.assert_array_equal(source.class_pixels(SPEC), expected_pixels(copy))


@pytest.mark.parametrize(
    "splits,message",
    [
        ("train+test", r"has no split 'test' \(of 'train\+test'\) in .*it has: train, val"),
        ("train+", r"has no split '' \(of 'train\+'\)"),
        ("", "has no split '' in"),
        ("val+train+val", r"split 'val' is twice in 'val\+train\+val'"),
    ],
)
def test_splits_that_cannot_be(prepared, splits, message):
    with pytest.raises(InputError, match=message) as error:
        prepared.source(splits)
    assert "\n" not in str(error.value)


def test_joined_splits_are_evaluated(prepared):
    batches = list(data.eval_batches(prepared.source("train+val"), SPEC, batch_size=4))
    index = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert sorted(index) == list(range(8))


def test_a_share_is_the_names_of_the_smallest_hashes():
    names = [f"r{i}" for i in range(30)]
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for text, count in (("0.1", 3), ("1/8", 4), ("0.01", 1), ("1e-9", 1), ("0.5", 15), ("1", 30)):
        picked = chosen(Names(names), text)
        assert sorted(picked) == sorted(ranked[:count])
        assert picked == [name for name in names if name in picked]  # in the source's order
    assert data.choose(source := Names(names), "") is source


@hypothesis.given(
    st.lists(st.text(max_size=3), min_size=1, max_size=40, unique=True),
    st.fractions(min_value=Fraction(1, 1000), max_value=1),
    st.fractions(min_value=Fraction(1, 1000), max_value=1),
    st.randoms(),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_smaller_shares_lie_inside_larger_ones(names, one, other, random):
    small, large = sorted((one, other))
    few, many = chosen(Names(names), str(small)), chosen(Names(names), str(large))
    assert set(few) <= set(many)
    assert len(few) == max(1, math.ceil(small * len(names)))
    shuffled = random.sample(names, len(names))
    assert set(chosen(Names(shuffled), str(small))) == set(few)


def test_a_list_of_names(tmp_path, prepared):
    path = tmp_path / "labelled.txt"
    path.write_text("\ufeff# an eighth\n\nval_001\n  train_003 \r\n#val_002\ntrain_000", "utf-8")
    source = prepared.source("train+val")
    subset = data.choose(source, str(path))
    assert chosen(source, str(path)) == subset.names == ["train_000", "train_003", "val_001"]
    np.testing.assert_array_equal(subset.class_pixels(SPEC), expected_pixels(subset))
    assert subset.image_sizes == [trees.SIZE] * 3 and pickle.loads(pickle.dumps(subset)).names
    moved = tmp_path / "again.txt"
    moved.write_text("train_000\nval_001\ntrain_003\n")
    assert str(data.choose(source, str(moved))) == str(subset)
    assert str(subset).startswith("3 of 8 records (")
    moved.write_text("train_000\nval_001\ntrain_004\n")
    assert str(data.choose(source, str(moved))) != str(subset)


@pytest.mark.parametrize(
    "text,message",
    [
        ("train_000\n\ntrain_0O1\n", "line 3: no record 'train_0O1' among the 8 .* 'train_001'"),
        ("val_000\ntrain_000\nval_000\n", "line 3: 'val_000' is in line 1 already"),
        ("# nothing\n\n", "lists no record"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_lists_that_cannot_be(tmp_path, prepared, text, message):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as error:
        data.choose(prepared.source("train+val"), str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text,message",
    [
        ("0", "subset is 0, expected a share above 0 and at most 1"),
        ("-0.5", "subset is -0.5, expected a share"),
        ("1.01", "subset is 1.01, expected a share"),
        ("nowhere.txt", "subset=nowhere.txt: No such file or directory, expected a share"),
        ("1/0", "subset=1/0: No such file"),
        ("nan", "subset=nan: No such file"),
        ("/", "subset=/: Is a directory"),
    ],
)
def test_subsets_that_cannot_be(text, message):
    with pytest.raises(InputError, match=message):
        data.choose(Names(["a", "b"]), text)


def test_a_listed_name_of_two_records(tmp_path):
    (tmp_path / "list").write_text("b\na\n")
    source = data.selection.Joined([Names(["a", "b"]), Names(["a"])])
    with pytest.raises(InputError, match="line 2: two records are called 'a'"):
        data.choose(source, str(tmp_path / "list"))


def test_counts_are_kept_beside_the_records(tmp_path, monkeypatch, capfd):
    raw = trees.camvid(tmp_path / "raw")
    prepared = data.prepare("camvid", raw_dir=str(raw), data_dir=str(tmp_path / "tfds"))
    source, calls = prepared.source("train"), []
    original = counts.decode_label
    monkeypatch.setattr(counts, "decode_label", lambda *a: calls.append(a[2]) or original(*a))
    expected = expected_pixels(source)
    capfd.readouterr()
    np.testing.assert_array_equal(source.class_pixels(SPEC), expected)
    assert len(calls) == 5 and "counting classes of train: 5 in" in capfd.readouterr().err
    [path] = tmp_path.glob("tfds/**/class_pixels.train.npy")
    assert np.load(path).dtype == np.int32
    np.testing.assert_array_equal(prepared.source("train").class_pixels(SPEC), expected)
    assert len(calls) == 5 and capfd.readouterr().err == ""
    path.write_bytes(path.read_bytes()[:-3])  # cut short: counted anew
    np.testing.assert_array_equal(source.class_pixels(SPEC), expected)
    assert len(calls) == 10
    assert source.names == prepared.source("train").names == [f"train_{i:03d}" for i in range(5)]
    assert sorted(p.name for p in path.parent.glob("*.npy")) == [path.name, "names.train.npy"]
    assert not list(path.parent.glob(".*npy*"))


def test_a_disk_that_cannot_be_written_does_not_matter(tmp_path):
    array = np.arange(3)
    nowhere = tmp_path / "gone" / "a.npy"
    np.testing.assert_array_equal(counts.kept(nowhere, 3, lambda: array), array)
    assert not nowhere.parent.exists()


def test_a_bad_label_is_named_when_counted():
    records = trees.records(3)
    label = trees.indices(1)
    label[3, 4] = 77
    records[1]["label"] = trees.encode(label)
    with pytest.raises(InputError, match="r001 .label.: label value 77 at row 3, column 4"):
        records.class_pixels(SPEC)
