"""Runs of several processes, and what ends them: a signal, a lost process, a second run."""

import json
import shutil
import signal

import pytest

from collabseg_jax.errors import InputError
from collabseg_jax.run import distributed
from tests import processes, tiny

LONG = {"steps": 150, "eval.every": 0, "checkpoint.every": 1000, "log.every": 1, "ramp_steps": 5}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Not that of other modules, so that two processes at once find it empty."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def start(data_dir):
    """Starts runs; whatever still goes on when the test is over is killed."""
    everything = []

    def start_run(workdir, **options):
        started, logs = _start(workdir, data_dir, **options)
        everything.extend(started)
        return started, logs

    yield start_run
    for process in everything:
        process.kill()


def _start(workdir, data_dir, *, count=1, devices=1, logs="logs", **overrides):
    flags = processes.flags_of(tiny.make_config(data_dir, **overrides))
    flags.append(f"--workdir={workdir}")
    logs = workdir.with_name(logs)
    started = processes.start("tests.run_tiny", flags, logs=logs, processes=count, devices=devices)
    return started, logs


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["cnn/ce"], line["vit/ce"]) for line in lines if "cnn/ce" in line}


def wait_for_steps(workdir, started, count=3):
    def logged():
        path = workdir / "metrics.jsonl"
        return path.exists() and len(path.read_text().splitlines()) >= count

    processes.wait_for(logged, what=f"{count} steps in {workdir}", alive=started)


def saved(workdir):
    finished = (workdir / "checkpoints").glob("*/_CHECKPOINT_METADATA")
    return sorted(int(path.parent.name) for path in finished if path.parent.name.isdigit())


def test_sigterm_to_one_of_two_and_then_other_devices(start, tmp_path):
    """Both save the same step and exit with 0; one device and four continue alike."""
    run = tmp_path / "run"
    started, logs = start(run, count=2, devices=2, **LONG)
    wait_for_steps(run, started)
    started[1].send_signal(signal.SIGTERM)
    said = processes.finish(started, logs)
    [step] = saved(run)
    assert f"stopped as asked; the same command continues {run} after step {step}" in said[0]
    assert not (run / "results.json").exists()
    assert max(losses(run)) == step < 150
    shutil.copytree(run, tmp_path / "again")
    for workdir, devices in ((run, 1), (tmp_path / "again", 4)):
        started, logs = start(workdir, devices=devices, **LONG)
        processes.finish(started, logs)
    one, four = losses(run), losses(tmp_path / "again")
    assert one.keys() == four.keys() == set(range(1, 151))
    for k in range(step + 1, step + 11):
        assert one[k] == pytest.approx(four[k], rel=1e-5)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other(start, tmp_path, victim):
    """And both continue, also if the newest checkpoint is damaged."""
    run = tmp_path / "run"
    endless = LONG | {"steps": 1_000_000, "checkpoint.every": 20, "data.workers": 1}
    started, logs = start(run, count=2, **endless)
    processes.wait_for(lambda: len(saved(run)) == 2, what="two checkpoints", alive=started)
    started[victim].kill()
    other = started[1 - victim]
    other.wait(60)  # raises if it takes longer
    said = processes.finish(started, logs, expect=None)
    assert other.returncode not in (0, 2)
    lines = said[1 - victim].splitlines()
    assert any(line.startswith("error: this run lost one of its proc") for line in lines)

    *_, before, newest = saved(run)
    (run / "checkpoints" / str(newest) / "state" / "manifest.ocdbt").write_bytes(b"")
    started, logs = start(run, count=2, logs="again", **endless)
    processes.wait_for(
        lambda: "continuing" in (logs / "0").read_text() and max(losses(run)) > before + 2,
        what="more steps",
        alive=started,
    )
    started[victim].send_signal(signal.SIGTERM)
    said = processes.finish(started, logs)
    assert f"{newest} is damaged" in said[0]
    assert f"falling back to the checkpoint of step {before}\n" in said[0]
    assert f"continuing {run} after step {before}\n" in said[0]
    assert saved(run)[-1] == max(losses(run))


def test_a_bad_start_of_one_ends_the_other(start, tmp_path):
    """Only process 0 takes the lock that another run holds."""
    run = tmp_path / "run"
    endless = LONG | {"steps": 1_000_000}
    first, first_logs = start(run, **endless)
    wait_for_steps(run, first)
    second, logs = start(run, count=2, logs="second.logs", **endless)
    said = processes.finish(second, logs, timeout=100, expect=None)
    assert f"error: {run} is in use by process {first[0].pid} on " in said[0]
    assert "error: this run lost one of its processes" in said[1]
    assert all(process.returncode for process in second)
    assert first[0].poll() is None
    first[0].terminate()
    processes.finish(first, first_logs)
    assert saved(run)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("", 2, -1), "belong to --coordinator_address=HOST:PORT"),
        (("auto", 0, 1), "belong to --coordinator_address=HOST:PORT"),
        (("localhost:1", 2, 2), "expected HOST:PORT and 0 <= process_id < num_processes"),
        (("localhost", 2, 0), "expected HOST:PORT"),
    ],
)
def test_places_that_cannot_be(place, message):
    with pytest.raises(InputError, match=message):
        distributed.start(*place)
