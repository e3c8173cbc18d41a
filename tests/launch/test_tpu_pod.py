"""launch/tpu_pod.sh, with a stub of gcloud."""

import shlex
import subprocess
import time

import pytest

from tests.launch.stubs import FLAGS, dry_run, run

TPU = "launch/tpu_pod.sh"
FILLED_IN = {
    "PROJECT": "my-project",
    "ZONE": "my-zone",
    "ACCELERATOR_TYPE": "v6e-16",
    "RUNTIME_VERSION": "v2-alpha-tpuv6e",
    "STORAGE": "host:/share",
    "WORKDIR": "runs/a b",
}

# Stands in for gcloud and a slice of one worker: its state is a file, its home a folder.
GCLOUD = """#!/usr/bin/env bash
echo "$3 $4" >>"$STUB/log"
case "$3 $4" in
  "queued-resources create") echo ACTIVE >"$STUB/state" ;;
  "queued-resources delete") rm -rf "$STUB/state" "$STUB/worker" ;;
  "queued-resources describe")
    if [ -e "$STUB/fault" ]; then
      rm "$STUB/fault"
      echo "ERROR: 503" >&2 && exit 1
    fi
    if [ ! -e "$STUB/state" ]; then echo "ERROR: NOT_FOUND: no such slice" >&2 && exit 1; fi
    cat "$STUB/state"
    ;;
  "tpu-vm scp") mkdir -p "$STUB/worker" && cp "$5" "$STUB/worker" ;;
  "tpu-vm ssh")
    for argument in "$@"; do
      case $argument in
        --command=*) cd "$STUB/worker" && HOME=$PWD exec bash -c "${argument#*=}" ;;
      esac
    done
    ;;
esac
"""


@pytest.fixture
def cloud(home, stub):
    """A stub with a slice, and the copy as a git repository."""
    stub.make("gcloud", GCLOUD)
    stub.make("mountpoint", "#!/usr/bin/env bash\nexit 1\n")
    stub.make("sleep", "#!/usr/bin/env bash\nexec /bin/sleep 0.2\n")
    stub.env |= FILLED_IN
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "test"]):
        subprocess.run(["git", *identity, *arguments], cwd=home, check=True)
    return stub


def remote_words(command):
    """The words of what a `gcloud ... ssh` command runs on the workers."""
    (remote,) = [word for word in command if word.startswith("--command=")]
    return shlex.split(remote.removeprefix("--command="))


def test_tpu_prints_gcloud_commands(home, stub):
    env = {**stub.env, **FILLED_IN}
    commands = {}
    for name in ("create", "copy", "follow", "status", "stop", "delete"):
        commands[name] = dry_run(TPU, name, cwd=home, env=env)
    for name in ("prepare", "start", "resume", "keep"):
        commands[name] = dry_run(TPU, name, *FLAGS, cwd=home, env=env)
        assert remote_words(commands[name][-1])[-3:] == FLAGS
        assert "WORKDIR=runs/a b" in remote_words(commands[name][-1])
    for command in sum(commands.values(), []):
        assert command[:3] == ["gcloud", "compute", "tpus"]
        assert command[-2:] == ["--project=my-project", "--zone=my-zone"]
    kinds = {name: [c[3:5] for c in commands[name]] for name in commands}
    ssh, scp = ["tpu-vm", "ssh"], ["tpu-vm", "scp"]
    create, describe, delete = (["queued-resources", x] for x in ("create", "describe", "delete"))
    assert kinds["create"] == [create, describe]
    assert kinds["copy"] == [scp, ssh, ssh]
    assert kinds["status"] == [describe, ssh]
    assert kinds["delete"] == [delete]
    assert kinds["resume"] == kinds["keep"] == [delete, create, describe, scp, ssh, ssh, ssh]
    assert {"--spot", "--accelerator-type=v6e-16"} <= set(commands["create"][0])
    for name, worker in (("start", "all"), ("stop", "all"), ("copy", "all"), ("follow", "0")):
        assert all(f"--worker={worker}" in command for command in commands[name])
    assert "--force" in commands["delete"][0]
    assert "--spot" not in dry_run(TPU, "create", cwd=home, env=env, SPOT="")[0]
    assert stub.log == []


def test_tpu_wants_to_be_filled_in(home, stub):
    assert dry_run(TPU, "create", cwd=home, env=stub.env)
    result = run(TPU, "create", cwd=home, env=stub.env)
    assert result.returncode == 2 and "PROJECT" in result.stderr
    result = run(TPU, "start", "--workdir=x", cwd=home, env={**stub.env, **FILLED_IN})
    assert result.returncode == 2 and "WORKDIR" in result.stderr
    result = run(TPU, "strat", cwd=home, env={**stub.env, **FILLED_IN})
    assert result.returncode == 2 and "strat" in result.stderr
    assert stub.log == []


def test_tpu_from_nothing_to_the_end(home, cloud):
    # No slice; the first run is preempted, the second ends.
    result = run(TPU, "keep", *FLAGS, cwd=home, env=cloud.env, PLAN="0 done")
    assert result.returncode == 0, result.stderr
    there = cloud.folder / "worker/collabseg_jax"
    assert (cloud.folder / "worker/shared/runs/a b/results.json").exists()
    assert cloud.flags(0) == cloud.flags(1)
    assert cloud.flags(1)[2:] == ["--coordinator_address=auto", "--workdir=runs/a b", *FLAGS]
    assert "sudo mount -t nfs host:/share " + str(cloud.folder / "worker/shared") in cloud.log
    head = ["git", "rev-parse", "HEAD"]
    commits = [subprocess.check_output(head, cwd=folder) for folder in (home, there)]
    assert commits[0] == commits[1]
    assert cloud.log.count("queued-resources create") == 1
    # The slice is taken away: another is made, and finds the results.
    (cloud.folder / "state").write_text("SUSPENDED\n")
    result = run(TPU, "resume", cwd=home, env=cloud.env, PLAN="0 done 0")
    assert result.returncode == 0, result.stderr
    assert cloud.log.count("queued-resources create") == 2


def test_tpu_start_stop_and_status(home, cloud):
    env = {**cloud.env, "PLAN": "wait 2 1"}
    for name in ("create", "copy", "start"):
        result = run(TPU, name, cwd=home, env=env)
        assert result.returncode == 0, result.stderr
    cloud.wait_for("ready.0")

    def status():
        return run(TPU, "status", cwd=home, env=env).stdout.split()

    assert status() == ["ACTIVE", "running"]
    result = run(TPU, "start", cwd=home, env=env)
    assert result.returncode == 1 and "already running" in result.stderr
    assert run(TPU, "stop", cwd=home, env=env).returncode == 0
    assert "saved 0" in (cloud.folder / "worker/collabseg_jax/run.log").read_text()
    assert status() == ["ACTIVE", "stopped"]
    for expected in ("refused", "crashed"):
        assert run(TPU, "start", cwd=home, env=env).returncode == 0
        cloud.wait_for("worker/collabseg_jax/run.code")
        assert status() == ["ACTIVE", expected]


def test_tpu_is_not_resumed_because_google_does_not_answer_once(home, cloud):
    env = {**cloud.env, "PLAN": "wait 1"}
    for name in ("create", "copy", "start"):
        assert run(TPU, name, cwd=home, env=env).returncode == 0
    cloud.wait_for("ready.0")
    (cloud.folder / "fault").touch()
    keep = subprocess.Popen([str(home / TPU), "keep"], cwd=home, env=env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while cloud.log.count("queued-resources describe") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    keep.kill()
    assert b"ERROR: 503" in keep.communicate()[1]
    assert cloud.log.count("tpu-vm scp") == 1
    assert run(TPU, "status", cwd=home, env=env).stdout.split() == ["ACTIVE", "running"]
    assert run(TPU, "stop", cwd=home, env=env).returncode == 0


def test_tpu_gives_up_after_crashes(home, cloud):
    result = run(TPU, "keep", cwd=home, env=cloud.env, PLAN="1 1 1 1 1 1")
    assert result.returncode == 1
    assert "crashed 3 times in a row" in result.stderr
