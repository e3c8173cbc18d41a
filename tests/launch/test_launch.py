"""The launch scripts: clean, and doing what their tops say; stubs stand for what they call."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
# What a shell would take apart if it were not quoted.
FLAGS = ["--config.predict.images=a b/*.jpg", "--config.steps=3", '--config.note=it\'s "$HOME"']

# Stands in for Python: makes an environment of itself, installs nothing, and "trains" as PLAN says,
# where word i is for process i, or for the i-th run without a process id.
PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit ;;
  "-m collabseg_jax.main") ;;
  *) exit 0 ;;
esac
run=$(ls "$STUB" | grep -c '^flags')
for flag in "$@"; do
  case $flag in
    --process_id=*) run=${flag#*=} ;;
    --workdir=*) WORKDIR=${flag#*=} ;;
  esac
done
printf '%s\\n' "$@" >"$STUB/flags.$run"
echo "out $run"
echo "err $run" >&2
plan=($PLAN)
case ${plan[run]} in
  wait)
    trap 'kill $!; echo "saved $run"; exit 0' TERM
    touch "$STUB/ready.$run"
    /bin/sleep 60 & wait
    ;;
  deaf) trap '' TERM; touch "$STUB/ready.$run"; for ((i = 0; i < 600; i++)); do sleep 0.1; done ;;
  done) mkdir -p "$WORKDIR" && touch "$WORKDIR/results.json" ;;
  *) exit "${plan[run]}" ;;
esac
"""


@pytest.fixture
def stub(tmp_path):
    """A folder for stubs, first in the PATH of its `env`, and for what they write."""
    return Stub(tmp_path / "stub")


class Stub:
    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        python = self.make("stub-python", PYTHON)
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")},
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": str(python),
            "STUB": str(folder),
        }
        # Never the real ones, whatever goes wrong in a test.
        for name in ("gcloud", "srun", "scontrol", "sudo", "gcsfuse"):
            self.make(name, f'#!/usr/bin/env bash\necho "{name} $*" >>"$STUB/log"\n')

    def make(self, name, text):
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def flags(self, run):
        return (self.folder / f"flags.{run}").read_text().splitlines()

    @property
    def log(self):
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, *names):
        deadline = time.monotonic() + 15
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline, names
            time.sleep(0.02)


@pytest.fixture
def home(tmp_path):
    """A copy of what the launch scripts need of the repository, without an environment."""
    home = tmp_path / "home"
    shutil.copytree(LAUNCH, home / "launch")
    shutil.copy(ROOT / "pyproject.toml", home)
    return home


def run(*command, cwd, env, **more):
    env = {**env, **more}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def dry_run(*command, cwd, env, **more):
    """The words of each command that would be run."""
    result = run(*command, cwd=cwd, env=env, DRY_RUN="1", **more)
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def shellcheck(*arguments, **options):
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert program, "shellcheck is missing: pip install -e '.[test]'"
    return subprocess.run(
        [program, "--shell=bash", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    result = shellcheck("-x", "-P", "SCRIPTDIR", script)
    assert result.returncode == 0, result.stdout
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) == (script.name not in ("environment.sh", "slurm.sbatch"))


# --- local_multihost.sh ------------------------------------------------------------------------

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


# --- slurm.sbatch ------------------------------------------------------------------------------

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


# --- tpu_pod.sh --------------------------------------------------------------------------------

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


# --- gke_jobset.yaml ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests():
    claim, jobs = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    return claim, jobs


@pytest.fixture(scope="module")
def container(manifests):
    pod = manifests[1]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return container


def test_gke_restarts_the_whole_set(manifests, container):
    claim, jobs = manifests
    assert (claim["kind"], jobs["kind"]) == ("PersistentVolumeClaim", "JobSet")
    assert jobs["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobs["spec"]["failurePolicy"]["maxRestarts"] > 0
    (replicated,) = jobs["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)


def test_gke_processes_find_each_other(manifests, container):
    _, jobs = manifests
    (replicated,) = jobs["spec"]["replicatedJobs"]
    name, job = jobs["metadata"]["name"], replicated["template"]["spec"]
    hosts = int(next(e["value"] for e in container["env"] if e["name"] == "HOSTS"))
    assert hosts == job["parallelism"] == job["completions"]
    (port,) = container["ports"]
    host = f"{name}-{replicated['name']}-0-0.{name}"
    script = container["command"][2]
    assert f"--coordinator_address={host}:{port['containerPort']} " in script
    assert '--num_processes="$HOSTS"' in script
    assert '--process_id="$JOB_COMPLETION_INDEX"' in script


def test_gke_script_is_clean(container):
    result = shellcheck("-", input=container["command"][2])
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("plan", "code"), [("done", 0), ("0", 75), ("2", 2), ("1", 1)])
def test_gke_exit_codes(container, stub, tmp_path, plan, code):
    stub.make("python", PYTHON)
    command = [*container["command"], *FLAGS]
    here = {"WORKDIR": str(tmp_path / "a b"), "HOSTS": "1", "JOB_COMPLETION_INDEX": "0"}
    result = run(*command, cwd=tmp_path, env=stub.env, PLAN=plan, **here)
    assert result.returncode == code, result.stderr
    assert stub.flags(0)[-3:] == FLAGS


def test_gke_hands_sigterm_on(container, stub, tmp_path):
    stub.make("python", PYTHON)
    here = {"WORKDIR": str(tmp_path / "run"), "HOSTS": "1", "JOB_COMPLETION_INDEX": "0"}
    process = subprocess.Popen(
        container["command"],
        env={**stub.env, **here, "PLAN": "wait"},
        stdout=subprocess.PIPE,
        text=True,
    )
    stub.wait_for("ready.0")
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert "saved 0" in out
    assert process.returncode == 75
