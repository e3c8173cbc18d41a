"""launch/slurm.sbatch."""

import pytest

from tests.launch.stubs import FLAGS, LAUNCH, dry_run, run

SLURM = ["bash", "launch/slurm.sbatch"]


def test_slurm_asks_for_one_task_on_each_gpu():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    asked = dict(
        line.removeprefix("#SBATCH --").split()[0].partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"] == "TERM@120"  # with B: it would reach the shell, not the tasks
    assert "requeue" in asked
    assert "gpus-per-task" not in asked
    assert asked["partition"] == "FILL_IN"


def test_slurm_prints_its_command(home, stub):
    (command,) = dry_run(
        *SLURM, *FLAGS, cwd=home, env=stub.env, WORKDIR="runs/a b", SLURM_CPUS_PER_TASK="8"
    )
    assert command[0] == "srun" and "--cpus-per-task=8" in command
    start = command.index(".venv/bin/python")
    assert command[start + 1 :] == [
        "-m",
        "collabseg_jax.main",
        "--coordinator_address=auto",
        "--workdir=runs/a b",
        *FLAGS,
    ]
    assert stub.log == []


@pytest.mark.parametrize(
    ("code", "finished", "requeued"), [(0, True, False), (0, False, True), (1, False, False)]
)
def test_slurm_queues_a_run_again_until_it_has_ended(home, stub, code, finished, requeued):
    stub.make("srun", f"#!/usr/bin/env bash\nexit {code}\n")
    if finished:
        (home / "runs/x").mkdir(parents=True)
        (home / "runs/x/results.json").touch()
    result = run(*SLURM, cwd=home, env=stub.env, WORKDIR="runs/x", SLURM_JOB_ID="42")
    assert result.returncode == code
    assert stub.log == (["scontrol requeue 42"] if requeued else [])


@pytest.mark.parametrize("flag", ["--workdir=x", "--workdir", "--mode=eval"])
def test_slurm_refuses_what_it_cannot_follow(home, stub, flag):
    result = run(*SLURM, flag, cwd=home, env=stub.env, SLURM_JOB_ID="42")
    assert result.returncode == 2 and flag in result.stderr
    assert stub.log == []
