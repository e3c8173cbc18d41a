"""The record of a workdir, and what may continue it."""

import json

import pytest
from ml_collections import ConfigDict

from collabseg_jax import data
from collabseg_jax.configs import quickstart
from collabseg_jax.errors import InputError
from collabseg_jax.run import build as experiment
from collabseg_jax.run import record as workdir


@pytest.fixture
def recorded(tmp_path):
    """A workdir of the quickstart from when there were four losses with one weight each."""
    record = quickstart.get_config().to_dict()
    rows = record["losses"]
    record["losses"] = {k: rows[k] for k in ("ce", "hfd", "bsd_region", "bsd_pixel", "dml")}
    later = ("cnn", "vit", "space")
    for row in record["losses"].values():
        for key in later:
            row.pop(key, None)
    for student in ("cnn", "vit"):
        del record[student]["frozen"]
    for key in ("borrowed_grad", "mask_ratio"):
        del record["bridges"][key]
    (tmp_path / "config.json").write_text(json.dumps({"config": record}))
    return tmp_path


def test_a_run_from_before_there_were_more_losses_goes_on(recorded):
    workdir.refuse_other_config(quickstart.get_config(), recorded)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("losses.at.weight", 1.0),
        ("losses.hfd.vit", 0.5),
        ("bridges.borrowed_grad", True),
        ("cnn.frozen", True),
        ("losses.dml.temperature", 2.0),
    ],
)
def test_but_not_with_what_it_did_not_have(recorded, key, value):
    config = quickstart.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=rf"another configuration: .*\b{key} \("):
        workdir.refuse_other_config(config, recorded)


def test_only_what_is_given_differs_from_the_record(tmp_path):
    config = quickstart.get_config()
    config.eval.short_side, config.data.raw_dir, config.mesh.space = 512, "/raw", 2
    (tmp_path / "config.json").write_text(json.dumps({"config": config.to_dict()}))
    given = ConfigDict({"eval": {"flip": True}, "data": {"raw_dir": ""}, "seed": 0})
    expected = experiment.flatten(config) | {"eval.flip": True, "data.raw_dir": ""}
    expected["mesh.space"] = 1  # the devices of today
    assert experiment.flatten(workdir.recorded_config(tmp_path, given)) == expected
    with pytest.raises(InputError, match=r"config\.cnn\.lr is 1\.0, but .* trained with 0\.0"):
        workdir.recorded_config(tmp_path, ConfigDict({"cnn": {"lr": 1.0}}))


def test_a_run_is_recorded_without_git(tmp_path, monkeypatch):
    """Small container images have none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    config, spec = quickstart.get_config(), data.get_spec("shapes", raw_dir="", data_dir="")
    workdir.record_config(config, tmp_path, fingerprint="f", spec=spec)
    assert json.loads((tmp_path / "config.json").read_text())["commit"] is None


def test_and_it_builds(recorded):
    """For eval, predict and export: the same pair and weights as today's config."""
    config = workdir.recorded_config(recorded, ConfigDict())
    then = experiment.build(config, num_classes=8)
    now = experiment.build(quickstart.get_config(), num_classes=8)
    for name in ("weights", "ce_weights", "terms", "options", "ramp_steps"):
        assert getattr(then.objective, name) == getattr(now.objective, name)
    assert then.pair.bridges == now.pair.bridges
    assert then.pair.borrowed_grad is now.pair.borrowed_grad is False
