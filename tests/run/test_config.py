"""The keys of a config: where pages are found, and which values each key may have."""

import pytest

from collabseg_jax.configs import quickstart
from collabseg_jax.errors import InputError
from collabseg_jax.run import config
from collabseg_jax.run.pages import PAGES, find_page, load


def with_value(key, value):
    config = quickstart.get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    return config


def test_every_range_is_that_of_a_key_and_holds_its_default():
    flat = config.flatten(load("base"))
    assert set(config.RANGES) <= set(flat)
    config.check(load("base"))


@pytest.mark.parametrize(
    ("key", "good", "bad", "expected"),
    [
        ("steps", 1, 0, "at least 1"),
        ("batch_size", 2, 1, "at least 2: the BatchNorm"),
        ("warmup_steps", -1, -2, "at least -1"),
        ("data.hue", 0.5, 0.51, "at least 0 and at most 0.5: turns"),
        ("data.scale", (0.5, 0.5), (0.0, 1.0), "(smallest, largest), each more than 0"),
        ("data.crop", (32, 33), (31, 33), "(height, width) in pixels, each at least 32"),
        ("data.crop", (32, 32), (32,), "(height, width) in pixels"),
        ("data.crop", (32, 32), 64, "(height, width)"),
        ("data.crop", (32, 32), ("64x64",), "(height, width)"),
        ("data.crop", (32, 32), (64.0, 64), "(height, width)"),
        ("data.scale", (0.5, 1), 0.5, "(smallest, largest)"),
        ("data.brightness", 0.0, float("nan"), "at least 0: a finite number"),
        ("bridges.mask_ratio", 1.0, 1.5, "at least 0 and at most 1: a share"),
        ("predict.long_side", 32, 31, "at least 32"),
        ("seed", 2**32 - 1, -1, "at least 0"),
    ],
)
def test_bounds(key, good, bad, expected):
    config.check(with_value(key, good))
    with pytest.raises(InputError) as error:
        config.check(with_value(key, bad))
    assert str(error.value).startswith(f"config.{key} is {bad!r}, expected {expected}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("precision", "float23", "unknown precision 'float23'; did you mean 'float32' or"),
        ("eval.checkpoint", "lattest", "did you mean 'latest' or"),
        ("predict.student", "both", "valid: cnn, ensemble, vit"),
        ("export.student", "ensemble", "valid: cnn, vit"),
        ("predict.encoding", "offical", "did you mean 'official'?"),
    ],
)
def test_words(key, value, message):
    with pytest.raises(InputError, match=rf"unknown {key} ") as error:
        config.check(with_value(key, value))
    assert message in str(error.value)


def test_what_belongs_together():
    with pytest.raises(InputError, match=r"config.data.scale is \(2.0, 0.5\), expected the small"):
        config.check(with_value("data.scale", (2.0, 0.5)))


@pytest.mark.parametrize(
    ("key", "near"),
    [("batchsize", "batch_size"), ("losses.dml.wieght", "losses.dml.weight"), ("zzz", "")],
)
def test_a_key_that_a_file_invents_is_refused(key, near):
    page = quickstart.get_config()
    *sections, name = key.split(".")
    at = page
    for section in sections:
        at = at[section]
    at[name] = 1
    with pytest.raises(InputError, match=f"unknown key '{key}'.*{near}"):
        config.check(page)


def test_a_key_that_a_file_lacks_is_named():
    page = quickstart.get_config()
    del page["steps"]
    with pytest.raises(InputError, match="the config has no steps, expected all of configs/base"):
        config.check(page)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = 1", "a.py has no function get_config"),
        ("a.py", "def get_config():\n    return {'steps': 1}", "returned dict, expected a ConfigD"),
        ("a.py", "def get_config():\n    pass", "returned NoneType, expected a ConfigDict"),
        ("a.py:x", "def get_config():\n    pass", "a.py:x: get_config: too many positional"),
        ("config.json", "{}", "config.json records a run, expected a Python file"),
        ("a.yaml", "steps: 1", "expected a Python file"),
    ],
)
def test_a_file_that_makes_no_config(tmp_path, monkeypatch, name, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name.split(":")[0]).write_text(text)
    with pytest.raises(InputError, match=message):
        load(name)


def test_free_keys_do_not_decide_what_is_trained():
    free = {key for key in config.flatten(load("base")) if config.is_free(key)}
    assert {"eval.every", "log.profile", "data.raw_dir", "remat"} <= free
    assert not {"steps", "seed", "data.crop", "losses.hfd.weight", "bridges.mask_ratio"} & free


def test_pages_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = PAGES / "quickstart.py"
    assert find_page("quickstart") == find_page("configs/quickstart.py") == inside
    assert find_page("studies/shapes") == PAGES / "studies" / "shapes.py"
    assert find_page("no_such_page") is find_page("") is find_page(".") is None
    own = tmp_path / "quickstart.py"
    own.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config(which='none'):\n    return ConfigDict({'which': which})\n"
    )
    assert find_page("quickstart.py").resolve() == own
    assert load("quickstart.py").which == "none" and load("quickstart.py:7").which == "7"
    with pytest.raises(InputError, match="no_such_page: no such config"):
        load("no_such_page")
