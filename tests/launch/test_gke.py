"""launch/gke_jobset.yaml."""

import subprocess

import pytest
import yaml

from tests.launch.stubs import FLAGS, LAUNCH, PYTHON, run, shellcheck


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
