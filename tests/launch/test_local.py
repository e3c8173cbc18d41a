"""launch/local_multihost.sh, and all scripts as shellcheck sees them."""

import os
import signal
import subprocess

import pytest

from tests.launch.stubs import FLAGS, LAUNCH, dry_run, run, shellcheck

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    result = shellcheck("-x", "-P", "SCRIPTDIR", script)
    assert result.returncode == 0, result.stdout
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) == (script.name not in ("environment.sh", "slurm.sbatch"))


LOCAL = "launch/local_multihost.sh"


def test_local_prints_its_commands(home, stub):
    commands = dry_run(LOCAL, "3", *FLAGS, cwd=home, env=stub.env, DEVICES="2", XLA_FLAGS="--xla_a")
    assert len(commands) == 3
    for i, command in enumerate(commands):
        assert command[:3] == [
            "env",
            "JAX_PLATFORMS=cpu",
            "XLA_FLAGS=--xla_a --xla_force_host_platform_device_count=2",
        ]
        assert command[3:6] == [".venv/bin/python", "-m", "collabseg_jax.main"]
        assert command[6] == commands[0][6]
        assert command[7:9] == ["--num_processes=3", f"--process_id={i}"]
        assert command[9:] == FLAGS
    key, _, address = commands[0][6].partition("=")
    assert key == "--coordinator_address"
    assert address.startswith("127.0.0.1:") and 1024 < int(address.rpartition(":")[2]) < 65536
    assert not (home / ".venv").exists()


def test_local_keeps_the_users_platform(home, stub):
    (command,) = dry_run(LOCAL, "1", cwd=home, env=stub.env, JAX_PLATFORMS="cuda")
    assert command[1] == "JAX_PLATFORMS=cuda"
    assert command[-1] == "--process_id=0"


def test_local_runs_all_and_returns_the_first_failure(home, stub):
    result = run(LOCAL, "4", *FLAGS, cwd=home, env=stub.env, PLAN="0 3 5 0")
    assert result.returncode == 3
    assert result.stdout == "out 0\n"
    lines = result.stderr.splitlines()
    assert "err 0" in lines
    for i in (1, 2, 3):
        assert f"[{i}] out {i}" in lines and f"[{i}] err {i}" in lines
        assert stub.flags(i)[-3:] == FLAGS
    assert run(LOCAL, "2", cwd=home, env=stub.env, PLAN="0 0").returncode == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_local_hands_signals_on(home, stub, sent):
    env = {**stub.env, "PLAN": "wait wait wait"}
    process = subprocess.Popen(
        [LOCAL, "3"],
        cwd=home,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as from a terminal, pytest in the background or not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    stub.wait_for("ready.0", "ready.1", "ready.2")
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out == "out 0\nsaved 0\n"
    assert "[1] saved 1" in err and "[2] saved 2" in err


def test_local_kills_at_the_second_signal(home, stub):
    env = {**stub.env, "PLAN": "deaf wait"}
    process = subprocess.Popen([LOCAL, "2"], cwd=home, env=env, start_new_session=True)
    stub.wait_for("ready.0", "ready.1")
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGKILL


@pytest.mark.parametrize("arguments", [[], ["0"], ["--config.steps=3"], ["two"]])
def test_local_wants_a_number(home, stub, arguments):
    result = run(LOCAL, *arguments, cwd=home, env=stub.env)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
