"""The record of a study: what it holds, that a copy of it continues, what is refused of it."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

from collabseg_jax.errors import InputError
from collabseg_jax.modes import study
from collabseg_jax.modes.study.record import Entry, read_runs, write_runs
from tests.modes.fake_study import finish, make_config, started

ROOT = Path(__file__).parents[2]
FILES = ("config.json", "runs.jsonl")


@pytest.fixture
def copied(go, tmp_path, capsys):
    """A finished study, of which tmp_path/study has the record alone; the whole is in `whole`."""
    for number, trial in enumerate(study.plan(make_config(), tmp_path / "study")):
        finish(trial, tmp_path / "fakes" / str(trial), miou=0.5 + number / 10)
    assert go(make_config()) == {"failed": []}
    (tmp_path / "study").rename(tmp_path / "whole")
    (tmp_path / "study").mkdir()
    for name in FILES:
        shutil.copy(tmp_path / "whole" / name, tmp_path / "study")
    shutil.rmtree(tmp_path / "fakes")
    capsys.readouterr()
    return tmp_path / "study"


def change(path, number, **keys):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= keys
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_line_has_what_a_run_has_to_itself(copied):
    shared = json.loads((copied / "config.json").read_text())
    assert set(shared) == {"format", "config", "spec", "versions"}
    assert shared["config"] == json.loads(json.dumps(make_config().run.to_dict()))
    lines = [json.loads(line) for line in (copied / "runs.jsonl").read_text().splitlines()]
    assert [(line["arm"], line["seed"]) for line in lines] == [
        *(("alone", 0), ("full", 0), ("alone", 1), ("full", 1)),
    ]
    assert [line["differences"] for line in lines] == [
        *({"losses.hfd.weight": 0.0}, {}, {"losses.hfd.weight": 0.0, "seed": 1}, {"seed": 1}),
    ]
    assert lines[3]["results"] == json.loads((copied / "../whole/full/1/results.json").read_text())
    assert set(lines[3]) == {
        *("arm", "seed", "differences", "data_fingerprint", "commit", "results"),
    }


def test_a_copy_of_the_record_is_a_finished_study(copied, go, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(study.charts, "draw_teaching", lambda *_: drawn.append(1))
    before = {name: (copied / name).read_text() for name in FILES}
    assert go(make_config(), ready=()) == {"failed": []}
    assert started(capsys) == []
    for name in ("study.md", "study.csv", "study_runs.csv"):
        assert (copied / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert {name: (copied / name).read_text() for name in FILES} == before
    assert not (copied / "full").exists()
    assert not drawn  # there is no log to draw


def test_what_is_missing_is_done_and_added(copied, go, capsys):
    """Runs outside the plan of today stay in the record."""
    before = (copied / "runs.jsonl").read_text()
    assert go(make_config(seeds=(1, 2))) == {"failed": []}
    assert started(capsys) == ["alone/2", "full/2"]
    after = (copied / "runs.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(line)["seed"] for line in after.splitlines()[4:]] == [2, 2]


def test_a_last_line_that_was_cut_short_is_done_again(copied, go, capsys):
    path = copied / "runs.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-40])
    assert set(read_runs(copied)) == {("alone", 0), ("full", 0), ("alone", 1)}
    assert "runs.jsonl, line 4 is cut short" in capsys.readouterr().err
    trial = study.plan(make_config(), copied)[-1]
    finish(trial, copied.parent / "fakes/full/1", miou=0.5 + 3 / 10)
    assert go(make_config()) == {"failed": []}
    assert started(capsys) == ["full/1"]
    assert path.read_text() == whole


def test_the_folder_of_a_run_counts_more_than_its_line(copied, go, capsys):
    """So that a run whose results were moved away is done again, or scored again."""
    trial = study.plan(make_config(), copied)[0]
    finish(trial, trial.workdir, miou=0.25)
    go(make_config())
    assert read_runs(copied)["alone", 0].results["cnn"]["miou"] == 0.25
    (trial.workdir / "results.json").unlink()
    go(make_config(only="full"))
    assert started(capsys) == []
    assert ("alone", 0) not in read_runs(copied)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"differences": {"cnn.lr": 1.0}},
            r"runs.jsonl: alone/0 was trained with another.*cnn\.lr",
        ),
        ({"differences": {"eval.flip": True}}, r"alone/0 was trained with another.*eval\.flip"),
        ({"differences": {"cnn.lr": None}}, r"alone/0 .*cnn\.lr \('absent' there"),
        ({"data_fingerprint": "g"}, "full/0 was trained on data f, .*alone/0 on g"),
        ({"results": {"split": "train"}}, r"alone/0 was scored with eval\.split 'train'"),
        ({"results": {"inference": {"flip": True}}}, r"alone/0 was scored with eval\.flip True"),
        ({"format": 99}, "alone/0 has format 99, expected at most"),
    ],
)
def test_another_configuration_data_or_scoring_in_a_line_is_refused(copied, go, keys, message):
    keys.setdefault("differences", {"losses.hfd.weight": 0.0})
    change(copied / "runs.jsonl", 0, **keys)
    with pytest.raises(InputError, match=message):
        go(make_config(seeds=(0, 1, 2)))
    assert sorted(path.name for path in copied.iterdir()) == sorted(FILES)


def test_a_run_of_an_older_format_counts_and_stays_as_it_was(copied, go, capsys):
    """Before there was a number, two keys of the bridges were among the losses."""
    older = {"bridges.borrowed_grad": None, "losses.hfd.borrowed_grad": False}
    older |= {"bridges.mask_ratio": None, "losses.mgd.mask_ratio": 0.75}
    older |= {"cnn.momentum": 0.9, "vit.momentum": 0.9}
    change(copied / "runs.jsonl", 1, format=0, differences=older)
    before = read_runs(copied)
    assert go(make_config(), ready=()) == {"failed": []}
    assert started(capsys) == []
    assert read_runs(copied) == before


def test_a_damaged_record_is_named(copied):
    path = copied / "runs.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:30] + "\n" + lines[2])
    with pytest.raises(InputError, match=r"runs\.jsonl, line 2: .*expected JSON"):
        study.plan(make_config(), copied)
    path.write_text('{"arm": "full", "seed": 0, "differences": {}, "commit": null}\n')
    with pytest.raises(InputError, match="line 1 has no data_fingerprint and no results"):
        study.plan(make_config(), copied)
    (copied / "config.json").unlink()
    with pytest.raises(InputError, match=r"runs\.jsonl is there without config\.json"):
        study.plan(make_config(), copied)


def test_the_workdir_of_a_run_is_refused(tmp_path):
    finish(study.plan(make_config(), tmp_path)[0], tmp_path / "run")
    with pytest.raises(InputError, match=r"run/config\.json is that of a run"):
        study.plan(make_config(), tmp_path / "run")


def test_runs_of_other_versions_and_formats_come_back_as_they_were(tmp_path):
    config = make_config().run
    first = {"config": {"seed": 3}, "data_fingerprint": "f", "commit": "c", "format": 1}
    first |= {"spec": {"name": "shapes"}, "versions": {"jax": "1"}}
    older = first | {"config": {"seed": 4, "losses": {"hfd": {"borrowed_grad": True}}}}
    del older["format"]
    entries = {
        ("full", 3): Entry(first, {"step": 1}),
        ("full", 4): Entry(older, {"step": 2}),
        ("dml", 4): Entry(first | {"versions": {"jax": "2"}}, {"step": 3}),
    }
    write_runs(tmp_path, config, entries)
    expected = entries | {("full", 4): Entry(older | {"format": 0}, {"step": 2})}
    assert read_runs(tmp_path) == expected
    write_runs(tmp_path, config, {})
    assert read_runs(tmp_path) == {}


# The published records: the study's page, how many of its runs are finished, how many there are.
PUBLISHED = {
    "shapes": ("shapes", 39, 40),
    "shapes_few": ("shapes:few", 35, 50),
    "defaults": ("defaults", 45, 52),
    "camvid_small": ("camvid:small", 14, 35),
    "camvid_few": ("camvid:few", 15, 40),
    "camvid_weights": ("camvid:weights", 11, 20),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_record_is_of_the_study_as_it_is_today(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    (page, *size), finished, planned = (PUBLISHED[name][0].split(":"), *PUBLISHED[name][1:])
    config = importlib.import_module(f"collabseg_jax.configs.studies.{page}").get_config(*size)
    folder = ROOT / "docs/studies" / name
    recorded = json.loads((folder / "config.json").read_text())["config"]
    config.run.data.raw_dir = recorded["data"]["raw_dir"]
    config.run.cnn.pretrained = recorded["cnn"]["pretrained"]
    trials = study.plan(config, folder)
    for trial in trials:
        study.refuse_other(trial)
    study.refuse_other_data(trials)
    assert (sum(trial.finished for trial in trials), len(trials)) == (finished, planned)


def test_every_published_record_is_tested():
    assert {path.name for path in (ROOT / "docs/studies").iterdir()} == set(PUBLISHED)
