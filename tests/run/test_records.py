"""From the config to the run: which records, how often, with which weights; resuming with them."""

import json
import shutil
import types

import jax
import numpy as np
import pytest

from collabseg_jax import data
from collabseg_jax.data import balance
from collabseg_jax.errors import InputError
from collabseg_jax.modes import train
from collabseg_jax.run import build
from tests import tiny
from tests.data import trees

pytestmark = pytest.mark.usefixtures("tiny_models")
# What one option or another would change, all at once.
ALL = {
    "data.split": "train+val",
    "data.subset": "0.75",
    "data.oversample": 1.0,
    "data.cache": True,
    "data.hue": 0.1,
    "losses.ce.class_weights": "inverse_log",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("camvid")


@pytest.fixture(scope="module")
def make_config(root):
    raw = trees.camvid(root / "raw")

    def make(**overrides):
        here = {"data.name": "camvid", "data.raw_dir": str(raw), "log.samples": 1}
        return tiny.make_config(root / "tfds", **here, **{"eval.every": 0, **overrides})

    return make


class Reached(Exception):
    """The run came to its first batch; all is decided then."""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """A function: by a config and a workdir, {argument: value} of what a run would do.

    While it is used, runs compile and train nothing.
    """
    seen = {}

    def jit_train_step(layout, **options):
        seen.update(options)

    def train_batches(source, spec, **options):
        seen.update(options, names=source.names)
        raise Reached

    def start(config, workdir=tmp_path / "run"):
        seen.clear()
        with pytest.raises(Reached):
            train.run(config, workdir)
        return dict(seen)

    monkeypatch.setattr(build.Run, "initial_state", lambda _: types.SimpleNamespace(step=0))
    monkeypatch.setattr(build.Run, "abstract_state", lambda _: None)
    monkeypatch.setattr(build, "jit_train_step", jit_train_step)
    monkeypatch.setattr(data, "train_batches", train_batches)
    return start


TRAIN, VAL = [f"train_{i:03d}" for i in range(5)], [f"val_{i:03d}" for i in range(3)]


def pixels(*labels):
    return np.array([[(trees.indices(i) == k).sum() for k in range(11)] for i in labels])


def test_by_default_all_of_train_as_it_is(make_config, started):
    seen = started(make_config())
    assert seen["names"] == TRAIN and seen["rates"] is None and not seen["cache"]
    assert seen["objective"].class_weights is None and seen["jitter"]["hue"] == 0


def test_what_batches_are_drawn_by_reaches_them(make_config, started):
    given = {
        "seed": 7,
        "batch_size": 12,
        "data.crop": (64, 32),
        "data.scale": (0.4, 1.7),
        "data.flip": False,
        "data.cat_max_ratio": 0.6,
    }
    seen = started(make_config(**given))
    expected = {
        **{"seed": 7, "batch_size": 12, "crop": (64, 32), "scale_range": (0.4, 1.7)},
        **{"flip": False, "cat_max_ratio": 0.6, "start_step": 0},
    }
    assert {key: seen[key] for key in expected} == expected


def test_every_option_reaches_the_run(make_config, started, capfd):
    seen = started(make_config(**ALL))
    everything = make_config(**ALL | {"data.subset": ""})
    assert len(seen["names"]) == 6 and set(seen["names"]) < {*TRAIN, *VAL}
    # The miniature's label i is the same in both splits.
    counted = pixels(*(int(name[-3:]) for name in seen["names"]))
    np.testing.assert_allclose(seen["rates"], balance.repeat_factors(counted, 1.0))
    np.testing.assert_allclose(seen["objective"].class_weights, balance.inverse_log(counted))
    assert seen["rates"].max() > 1 and seen["cache"] and seen["jitter"]["hue"] == 0.1
    said = capfd.readouterr().err
    for line in ("training on 6 of 8 records", "oversampling: epochs of", "class weights: sky "):
        assert said.count(line) == 1
    assert "data.cache: 6 decoded records will take 0.00 GiB" in said
    everything.data.cache = False
    assert started(everything, everything.data.dir + "/other")["names"] == [*TRAIN, *VAL]


def test_numbers_reach_the_run(make_config, started):
    numbers = ",".join(str(i / 4) for i in range(11))
    seen = started(make_config(**{"losses.ce.class_weights": numbers}))
    assert seen["objective"].class_weights == tuple(i / 4 for i in range(11))


def test_a_subset_is_compared_by_what_it_chooses(make_config, started, tmp_path):
    lists = {
        "a": "train_001\ntrain_003\n",
        "b": "# moved\ntrain_003\ntrain_001\n",
        "c": "train_001",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    config = make_config(**{"data.subset": str(tmp_path / "a")})
    assert started(config)["names"] == ["train_001", "train_003"]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert ", 2 of 5 records (" in record["data_fingerprint"]
    config.data.subset = str(tmp_path / "b")
    started(config)
    for other in (str(tmp_path / "c"), "0.4", ""):
        config.data.subset = other
        with pytest.raises(InputError, match="was trained on data .*, 2 of 5 records .*, found"):
            train.run(config, tmp_path / "run")


@pytest.mark.slow
def test_a_run_with_all_of_it_ends_in_the_same_bits_when_resumed(make_config, tmp_path):
    options = ALL | {"steps": 4, "checkpoint.every": 1, "log.every": 1, "eval.split": "val+train"}
    results = train.run(make_config(**options, **{"checkpoint.keep": 4}), tmp_path / "whole")
    assert results["step"] == 4
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for later in (3, 4):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(later))
    train.run(make_config(**options | {"data.cache": False}), tmp_path / "cut")
    config = make_config(**options)
    jax.tree.map(
        np.testing.assert_array_equal,
        tiny.trained_arrays(tmp_path / "whole", config),
        tiny.trained_arrays(tmp_path / "cut", config),
    )
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert logged[0]["cnn/ce_weighted"] != logged[0]["cnn/ce"]


@pytest.mark.parametrize(
    "overrides,message",
    [
        ({"data.split": "trian"}, "no split 'trian'"),
        ({"data.subset": "2"}, "config.data.subset is 2"),
        (
            {"data.oversample": -1.0},
            "config.data.oversample is -1.0, expected at least 0 and at most 1: a share",
        ),
        ({"data.hue": 0.6}, "config.data.hue is 0.6, expected at least 0 and at most 0.5: turns"),
        ({"data.cache": True, "data.workers": 2}, "config.data.workers is 2, expected 0 with"),
        ({"losses.ce.class_weights": "1,2"}, "found 2 numbers, expected one for each of the 11"),
    ],
)
def test_what_cannot_be_leaves_no_record(make_config, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message) as error:
        train.run(make_config(**overrides), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()
