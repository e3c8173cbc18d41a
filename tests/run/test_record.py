"""The record of a workdir, and what may continue it."""

import json

import pytest
from ml_collections import ConfigDict

from collabseg_jax import data
from collabseg_jax.configs import quickstart
from collabseg_jax.errors import InputError
from collabseg_jax.run import record
from collabseg_jax.run.build import make_run
from collabseg_jax.run.config import flatten


def write(workdir, config, **entries):
    content = {"format": record.FORMAT, "config": config, **entries}
    (workdir / "config.json").write_text(json.dumps(content))


@pytest.fixture
def old(tmp_path):
    """A workdir of the quickstart from before the record had a format number."""
    config = quickstart.get_config().to_dict()
    for row, key in (("hfd", "borrowed_grad"), ("mgd", "mask_ratio")):
        config["losses"][row][key] = config["bridges"].pop(key)
    config["cnn"]["momentum"] = config["vit"]["momentum"] = 0.9
    del config["log"]["profile"], config["describe"]["arrays"]
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    return tmp_path


def test_a_run_from_before_the_format_had_a_number_goes_on(old):
    record.refuse_other_config(quickstart.get_config(), old)
    config = record.recorded_config(old, ConfigDict())
    then, now = make_run(config), make_run(quickstart.get_config())
    assert flatten(config) == flatten(quickstart.get_config())
    for name in ("weights", "ce_weights", "terms", "options", "ramp_steps"):
        assert getattr(then.objective, name) == getattr(now.objective, name)
    assert then.pair == now.pair


@pytest.mark.parametrize(
    ("key", "value"),
    [("losses.at.weight", 1.0), ("bridges.borrowed_grad", True), ("cnn.frozen", True)],
)
def test_but_not_with_another_configuration(old, key, value):
    config = quickstart.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=rf"another configuration: {key} \("):
        record.refuse_other_config(config, old)


def test_what_came_later_has_its_default(tmp_path):
    """A loss that the record does not know had weight 0; a free key never mattered."""
    config = quickstart.get_config()
    older = config.to_dict()
    del older["losses"]["dml"], older["log"], older["predict"]["overlays"]
    write(tmp_path, older)
    record.refuse_other_config(config, tmp_path)
    assert flatten(record.recorded_config(tmp_path, ConfigDict())) == flatten(config)
    config.losses.dml.weight = 1.0
    with pytest.raises(InputError, match=r"another configuration: losses.dml.weight \(0.0 there"):
        record.refuse_other_config(config, tmp_path)


def test_a_record_without_a_key_that_trains_is_another_configuration(tmp_path):
    config = quickstart.get_config()
    older = config.to_dict()
    del older["cnn"]["frozen"]
    write(tmp_path, older)
    with pytest.raises(InputError, match=r"cnn.frozen \('absent' there, False here\)"):
        record.refuse_other_config(config, tmp_path)


def test_a_record_of_a_later_version_is_refused(tmp_path):
    write(tmp_path, quickstart.get_config().to_dict(), format=record.FORMAT + 1)
    with pytest.raises(InputError, match=f"has format {record.FORMAT + 1}, expected at most"):
        record.recorded_config(tmp_path, ConfigDict())


def test_only_what_is_given_differs_from_the_record(tmp_path):
    config = quickstart.get_config()
    config.eval.short_side, config.data.raw_dir, config.mesh.space = 512, "/raw", 2
    write(tmp_path, config.to_dict())
    given = ConfigDict({"eval": {"flip": True}, "data": {"raw_dir": ""}, "seed": 0})
    expected = flatten(config) | {"eval.flip": True, "data.raw_dir": ""}
    expected["mesh.space"] = 1  # the devices of today
    assert flatten(record.recorded_config(tmp_path, given)) == expected
    with pytest.raises(InputError, match=r"config\.cnn\.lr is 1\.0, but .* trained with 0\.0"):
        record.recorded_config(tmp_path, ConfigDict({"cnn": {"lr": 1.0}}))


def test_a_run_is_recorded_without_git(tmp_path, monkeypatch):
    """Small container images have none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    config, spec = quickstart.get_config(), data.get_spec("shapes", raw_dir="", data_dir="")
    record.record_config(config, tmp_path, fingerprint="f", spec=spec)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["commit"] is None and written["format"] == record.FORMAT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"config"', "config.json is damaged: .*, expected JSON"),
        ('{"config": {}}', "has no 'losses'"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        record.recorded_config(tmp_path, ConfigDict())
