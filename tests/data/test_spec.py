import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data.decode import decode_label
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

from . import trees


@pytest.mark.parametrize("name", data.SPECS)
def test_every_spec_is_complete(name):
    spec = data.SPECS[name]
    assert spec.name == name
    assert spec.source and spec.licence and spec.splits
    assert len(set(spec.classes)) == spec.num_classes
    # The colours of ADE20K that everybody uses have one twice, for `road` and `skyscraper`.
    assert len(set(spec.palette)) == spec.num_classes - (name == "ade20k")


def test_camvid_keeps_the_segnet_order():
    spec = data.get_spec("camvid")
    assert spec.classes[0] == "sky" and spec.classes[10] == "bicyclist" and spec.num_classes == 11
    assert spec.label_lut.dtype == np.uint8
    assert spec.label_lut[:12].tolist() == [*range(11), IGNORE]
    assert np.flatnonzero(spec.label_allowed).tolist() == list(range(12))


def test_without_a_table_labels_are_train_ids():
    spec = data.DatasetSpec("x", ("a", "b"), ((0, 0, 0), (1, 1, 1)), ("train",))
    assert np.flatnonzero(spec.label_allowed).tolist() == [0, 1, 255]
    assert spec.label_lut[[0, 1, 255]].tolist() == [0, 1, IGNORE]


@pytest.mark.parametrize(
    "change",
    [
        {"palette": ((0, 0, 0),)},
        {"classes": ()},
        {"label_values": {0: 2}},
        {"official_values": (1,)},
    ],
)
def test_a_spec_that_contradicts_itself(change):
    fields = {"classes": ("a", "b"), "palette": ((0, 0, 0), (1, 1, 1)), **change}
    with pytest.raises(ValueError, match="^x: "):
        data.DatasetSpec("x", splits=("train",), **fields)


def test_official_values_are_those_that_servers_expect():
    """cityscapesScripts, helpers/labels.py; ADE20K's scene parsing benchmark counts from 1."""
    ids = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert data.get_spec("cityscapes").official_values == ids
    assert data.get_spec("ade20k").official_values == tuple(range(1, 151))
    assert data.get_spec("pascal_voc").official_values == ()


@pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
def test_official_values_are_read_back_as_train_ids(name):
    spec = data.get_spec(name)
    written = trees.encode(np.array([spec.official_values], np.uint8))
    np.testing.assert_array_equal(decode_label(written, spec), [range(spec.num_classes)])


def test_unknown_name():
    with pytest.raises(InputError, match="unknown data set 'camvit'; did you mean 'camvid'"):
        data.get_spec("camvit")
