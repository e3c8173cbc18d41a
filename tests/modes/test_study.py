"""A study with a program in place of training: what is run, kept, refused, said.

`test_study_record.py` is about the two files of its record.
"""

import json
import shlex
import sys

import pytest

from collabseg_jax.configs.studies import base
from collabseg_jax.errors import InputError, RunError
from collabseg_jax.modes import study
from collabseg_jax.run.record import locked
from tests.modes.fake_study import ARMS, finish, finish_all, make_config, started


def test_runs_go_seed_by_seed_and_only_those_that_are_missing(go, tmp_path, capsys):
    assert go(make_config()) == {"failed": []}
    assert started(capsys) == ["alone/0", "full/0", "alone/1", "full/1"]
    assert "Not finished" not in (tmp_path / "study/study.md").read_text()
    kept = tmp_path / "study/alone/1/results.json"
    before = kept.stat().st_mtime_ns
    (tmp_path / "study/full/0/results.json").unlink()
    assert go(make_config(seeds=(0, 1, 2))) == {"failed": []}
    assert started(capsys) == ["full/0", "alone/2", "full/2"]
    assert kept.stat().st_mtime_ns == before
    assert "- commits: c0ffee" in (tmp_path / "study/study.md").read_text()


def test_a_run_gets_the_base_config_and_what_differs(tmp_path):
    config = make_config(arms={"a": {"losses.hfd.divergence": "mse", "data.crop": (64, 96)}})
    config.reference, config.seeds, config.run.data.cache = "a", (3,), True
    [trial] = study.plan(config, tmp_path)
    assert trial.flags == (
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path}/a/3",
        "--config.data.cache=True",
        "--config.data.crop=(64,96)",
        "--config.losses.hfd.divergence=mse",
        "--config.seed=3",
    )


def test_flags_give_the_config_that_was_planned(tmp_path, monkeypatch):
    from absl import flags
    from ml_collections import config_flags

    config = make_config(arms={"a": {"data.crop": (64, 96), "cnn.atrous_rates": (), "steps": 3}})
    config.reference, config.seeds = "a", (3,)
    config.run.data.cache, config.run.data.name, config.run.cnn.lr = True, "camvid", 1e-5
    [trial] = study.plan(config, tmp_path)
    values = flags.FlagValues()
    monkeypatch.setattr(sys, "argv", ["main", *trial.flags])
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    config_flags.DEFINE_config_file("config", flag_values=values)
    values(sys.argv)
    assert values["config"].value.to_dict() == trial.config.to_dict()


def test_a_failed_run_is_named_and_the_others_go_on(go, tmp_path, capsys):
    assert go(make_config(), ready=("full",)) == {"failed": ["alone/0", "alone/1"]}
    log = tmp_path / "study/alone/0/log.txt"
    line = f"alone/0: failed (exit code 1): error: no such luck; see {log}"
    assert line in capsys.readouterr().err.splitlines()
    assert "starting\nerror: no such luck\n" in log.read_text()
    page = (tmp_path / "study/study.md").read_text()
    assert "**Not finished (2):** alone/0, alone/1" in page
    assert "| full | 2 | 0.5000" in page


def test_a_killed_run_is_not_blamed_on_an_older_error(go, tmp_path, capsys):
    (tmp_path / "study/killed/0").mkdir(parents=True)
    (tmp_path / "study/killed/0/log.txt").write_text("error: disk full\n")
    config = make_config(arms={"killed": {}}, reference="killed", seeds=(0,))
    assert go(config) == {"failed": ["killed/0"]}
    said = capsys.readouterr().err
    assert "killed/0: failed (signal 9): " in said
    assert "disk full" not in said


def test_only_some_arms(go, capsys):
    go(make_config(only="full"))
    assert started(capsys) == ["full/0", "full/1"]
    with pytest.raises(InputError, match="did you mean 'full'"):
        go(make_config(only="ful"))


def test_dry_run_prints_the_commands_of_what_is_missing(go, tmp_path, capsys):
    finish_all(make_config(seeds=(0,)), tmp_path)
    go(make_config(dry_run=True))
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [words[3] for words in printed] == [
        f"--workdir={tmp_path}/study/{arm}/1" for arm in ("alone", "full")
    ]
    assert not (tmp_path / "study/alone/1").exists()


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("cnn.lr", 1.0, "cnn.lr"), ("eval.flip", True, "eval.flip"), ("data.subset", "0.5", "subset")],
)
def test_a_finished_run_of_another_configuration_is_refused(go, tmp_path, key, value, named):
    finish_all(make_config(), tmp_path)
    config = make_config()
    config.run.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=f"alone/0 was trained with another.*{named}"):
        go(config)
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["alone", "full"]


@pytest.mark.parametrize("scored", [{"split": "train"}, {"inference": {"flip": True}}])
def test_a_run_that_was_scored_otherwise_since_is_refused(go, tmp_path, scored):
    """Its config.json still says how it was scored at first."""
    finish_all(make_config(), tmp_path)
    path = tmp_path / "study/full/0/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | scored))
    with pytest.raises(InputError, match=r"full/0 was scored with eval\.(split|flip)"):
        go(make_config())


def test_finished_runs_of_other_data_are_refused(go, tmp_path):
    config = make_config()
    finish_all(config, tmp_path, fingerprints="ffgf")
    with pytest.raises(InputError, match="alone/1 was trained on data g, .*alone/0 on f"):
        go(config)


@pytest.mark.parametrize("changed", ["alone/1", "full/0"])
def test_data_that_change_while_a_study_runs_end_it(go, tmp_path, changed):
    """Before the next run is compared with those before."""
    config = make_config()
    for trial in study.plan(config, tmp_path / "study"):
        data = "g" if str(trial) == changed else "f"
        finish(trial, tmp_path / "fakes" / str(trial), fingerprint=data)
    with pytest.raises(InputError, match=f"{changed} was trained on data g, .*alone/0 on f"):
        go(config)
    assert not (tmp_path / "study/full/1").exists()


def test_arms_with_data_of_their_own_may_differ(go, tmp_path):
    config = make_config(arms={"alone": {}, "half": {"data.subset": "0.5"}}, seeds=(0,))
    finish_all(config, tmp_path, fingerprints="fg")
    assert go(config) == {"failed": []}


def test_a_run_that_a_killed_study_left_at_work_is_not_joined(go, tmp_path):
    at_work = tmp_path / "study/full/0"
    at_work.mkdir(parents=True)
    refused = pytest.raises(RunError, match="full/0 is in use by process")
    with locked(at_work), refused:
        go(make_config())
    assert not (tmp_path / "study/alone").exists()


def test_results_without_their_configuration_are_refused(go, tmp_path):
    finish_all(make_config(), tmp_path)
    (tmp_path / "study/full/1/config.json").unlink()
    with pytest.raises(InputError, match="full/1 has results.json without config.json"):
        go(make_config())


@pytest.mark.parametrize("wish", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_stopping_asks_the_runs_to_save(go, tmp_path, monkeypatch, request, wish):
    """The second run is at work when the wish comes; the third is never started."""
    import os
    import signal

    # Whoever starts the tests in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    working = tmp_path / "study/slow/0/working"
    sleep = study.jobs.time.sleep

    def wait(seconds):
        sleep(seconds)
        if working.exists():
            working.unlink()
            os.kill(os.getpid(), getattr(signal, wish))

    monkeypatch.setattr(study.jobs.time, "sleep", wait)
    config = make_config(arms={"alone": {}, "slow": {}})
    if wish != "SIGINT":
        assert go(config) == {"failed": []}
        assert "slow/0, alone/1" in (tmp_path / "study/study.md").read_text()
    else:
        with pytest.raises(KeyboardInterrupt):
            go(config)
    assert (tmp_path / "study/slow/0/saved").exists()
    assert not (tmp_path / "study/alone/1").exists()


def test_runs_side_by_side_have_devices_of_their_own(go, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7,-1")
    monkeypatch.setenv("JAX_PLATFORMS", "")
    go(make_config(seeds=(0,)))
    said = [(tmp_path / f"study/{arm}/0/log.txt").read_text() for arm in ("alone", "full")]
    assert "GPUs 4 of cuda " in said[0]
    assert "GPUs 7 of cuda " in said[1]


def test_devices_are_shared_out():
    def of(jobs, gpus, cores=(0, 1, 2, 3, 4)):
        return [(place.gpus, place.cores) for place in study.places(jobs, gpus, cores)]

    assert of(0, []) == of(1, []) == [((), ())]
    assert of(2, []) == [((), (0, 1)), ((), (2, 3))]
    assert of(2, [], cores=(6,)) == of(2, [], cores=()) == [((), ()), ((), ())]
    assert of(0, ["0", "1"]) == [(("0",), ()), (("1",), ())]
    assert of(1, ["0", "1"]) == [(("0", "1"), ())]
    assert of(2, ["0", "1", "2", "3"]) == [(("0", "1"), ()), (("2", "3"), ())]
    with pytest.raises(InputError, match="config.jobs is 3.*at most 2"):
        of(3, ["0", "1"])


@pytest.mark.skipif(len(study.usable_cores()) < 2, reason="needs two cores")
def test_runs_side_by_side_have_cores_of_their_own(go, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    go(make_config(seeds=(0,), jobs=2))
    said = [(tmp_path / f"study/{arm}/0/log.txt").read_text() for arm in ("alone", "full")]
    for text, place in zip(said, study.places(2, [], study.usable_cores()), strict=True):
        assert f"cores {' '.join(map(str, place.cores))}\n" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "alon"}, "did you mean 'alone'"),
        ({"metric": "iou"}, "did you mean 'miou'"),
        ({"seeds": (1, 1)}, r"config.seeds is \(1, 1\)"),
        ({"seeds": ()}, "at least 1"),
        ({"base": "configs/none.py"}, "config.base is 'configs/none.py'"),
        ({"arms": ARMS | {"a/b": {}}}, "'a/b', expected a name"),
        ({"arms": ARMS | {"x": {"losses.hfd.wait": 1.0}}}, "arms.x.*losses.hfd.weight"),
        ({"arms": ARMS | {"x": {"seed": 1}}}, "arms.x.*see config.seeds"),
        ({"arms": ARMS | {"x": {"steps": "many"}}}, "arms.x: steps is 'many', expected int"),
        ({"arms": ARMS | {"x": {"losses.hfd.divergence": "cosin"}}}, "arms.x: .*cosine"),
    ],
)
def test_what_is_invalid_is_named_before_anything_starts(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        study.plan(make_config(**changes), tmp_path)


@pytest.mark.slow
def test_real_runs(tmp_path, data_dir, tiny_models):
    """Two arms and two seeds of tiny students; one seed's see the same in their first step."""
    config = make_config(
        arms={arm: base.get_config("quickstart").arms[arm] for arm in ("alone", "full")}
    )
    config.run.update_from_flattened_dict(
        {
            **{"steps": 3, "batch_size": 4, "data.crop": (32, 32), "data.dir": str(data_dir)},
            **{"cnn.model": "tiny_cnn", "vit.model": "tiny_vit", "log.samples": 0, "log.every": 1},
            "log.gradients": True,
        }
    )
    command = (sys.executable, "-m", "tests.run_tiny")
    assert study.run(config, tmp_path, command=command) == {"failed": []}
    first = {}
    for trial in study.plan(config, tmp_path):
        line = json.loads((trial.workdir / "metrics.jsonl").read_text().splitlines()[0])
        first[trial.arm, trial.seed] = [line["cnn/ce"], line["vit/ce"]]
        assert line["vit/ce_grad_norm"] > 0
        assert ("vit/hfd_grad_norm" in line) == (trial.arm == "full")
        assert trial.entry.record == json.loads((trial.workdir / "config.json").read_text())
    for seed in (0, 1):
        assert first["alone", seed] == pytest.approx(first["full", seed], rel=1e-5)
    assert first["alone", 0] != pytest.approx(first["alone", 1], rel=1e-3)
    page = (tmp_path / "study.md").read_text()
    assert "Not finished" not in page
    assert "| full | 2 |" in page
