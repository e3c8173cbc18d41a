"""A study with a program in place of training: its config, and what its runs leave."""

import json

from collabseg_jax.configs.studies import base
from collabseg_jax.modes import study
from collabseg_jax.run.record import FORMAT
from tests.modes.test_comparison import results

# Given a run's flags: puts there the results that lie ready in FAKES, or fails for lack of them.
STUB = """
import os, shutil, signal, sys, time
from pathlib import Path
[to] = [Path(a.partition("=")[2]) for a in sys.argv if a.startswith("--workdir=")]
ready = Path(os.environ["FAKES"], to.parent.name, to.name)
cores = sorted(getattr(os, "sched_getaffinity", lambda _: ())(0))
gpus, platforms = map(os.environ.get, ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"))
print("GPUs", gpus, "of", platforms, "cores", *cores)
def save(*_):
    (to / "saved").touch()
    sys.exit(0)
if to.parent.name == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if to.parent.name == "slow":
    signal.signal(signal.SIGTERM, save)
    (to / "working").touch()
    time.sleep(60)
if not ready.exists():
    sys.exit(print("starting") or "error: no such luck")
shutil.copytree(ready, to, dirs_exist_ok=True)
"""
ARMS = {"alone": {"losses.hfd.weight": 0.0}, "full": {}}


def make_config(**changes):
    config = base.get_config("quickstart")
    config.arms, config.seeds = ARMS, (0, 1)
    for key, value in changes.items():
        setattr(config, key, value)
    return config


def finish(trial, folder, miou=0.5, fingerprint="f"):
    """Write what a finished run leaves."""
    folder.mkdir(parents=True)
    record = {"format": FORMAT, "config": trial.config.to_dict(), "data_fingerprint": fingerprint}
    record |= {"commit": "c0ffee", "spec": {"name": "shapes"}, "versions": {"jax": "1"}}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "results.json").write_text(json.dumps(results(miou, road=miou)))


def finish_all(config, tmp_path, fingerprints="ffff"):
    for trial, data in zip(study.plan(config, tmp_path / "study"), fingerprints, strict=False):
        finish(trial, trial.workdir, fingerprint=data)


def started(capsys):
    said = capsys.readouterr().err.splitlines()
    return [line.partition(":")[0] for line in said if ": started" in line]
