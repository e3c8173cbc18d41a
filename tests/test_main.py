"""The command line: mistakes are one line on standard error, exit code 2, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from collabseg_jax import data, main
from collabseg_jax.configs import quickstart
from collabseg_jax.run.record import FORMAT
from tests.data import trees

ROOT = Path(__file__).parent.parent

# Imports once, then runs each command line in a fork of its own; a file for what each one prints.
RUNNER = """
import json, os, sys
from collabseg_jax.modes import check, evaluate, predict, study, train
for name, argv in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        sys.argv = ["main", *argv]
        from collabseg_jax import main  # config_flags reads sys.argv already on import
        code = 0
        try:
            main.cli()
        except SystemExit as end:
            code = end.code or 0
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)  # to take down what the fork shares costs more than the command
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

# Flags, and what the line must name. TMP is a new folder, TMP/trained a workdir of the quickstart.
MISTAKES = [
    (["--config.stepz=3"], ["'stepz'", "steps"]),
    (["--config.losses.bsd_pixle.weight=3"], ["bsd_pixle", "bsd_pixel"]),
    (["--config.steps=many"], ["steps", "many"]),
    (["--config", "configs/nothing.py"], ["configs/nothing.py", "no such file"]),
    (["--config.cnn.model=deeplabv3plus_resnet19"], ["resnet19", "deeplabv3plus_resnet18"]),
    (["--config.vit.model=segformer_b9"], ["segformer_b9", "segformer_b0"]),
    (["--config.losses.hfd.divergence=cosin"], ["cosin", "cosine"]),
    (["--config.data.name=camvit"], ["camvit", "camvid"]),
    (["--config.data.crop=(8,8)"], ["config.data.crop", "(8, 8)", "32"]),
    (["--config.batch_size=1"], ["config.batch_size is 1", "2"]),
    (["--config.precision=float16"], ["float16", "bfloat16"]),
    (["--config.steps=0"], ["config.steps is 0"]),
    (["--config.data.crop=64"], ["config.data.crop is (64,)", "(height, width)"]),
    (["--config.data.scale=0.5"], ["config.data.scale is (0.5,)", "(smallest, largest)"]),
    (["--mode=check", "--config.data.crop=0,0"], ["config.data.crop is (0, 0)", "32"]),
    (["--config="], ["--config=", "no such file", "configs/quickstart.py"]),
    (["--config=configs/quickstart.py:fast"], ["configs/quickstart.py:fast", "too many"]),
    (["--config=TMP/trained/config.json"], ["records a run", "--workdir"]),
    (["--mode=trian"], ["trian", "train"]),
    (["--mode=eval"], ["config.json not found"]),
    (
        ["--mode=eval", "--workdir=TMP/trained", "--config.eval.flip", "--config.cnn.lr=1"],
        ["config.cnn.lr is 1.0", "TMP/trained was trained with 0.0", "eval"],
    ),
    (  # what only the file says does not count
        ["--config=configs/camvid.py", "--mode=predict", "--workdir=TMP/trained"]
        + ["--config.predict.images=/nowhere/*"],
        ["/nowhere/*", "matches no file"],
    ),
    (
        ["--mode=describe", "--config.describe.size=(16,512)"],
        ["config.describe.size is (16, 512)", "32"],
    ),
    (["--mode=describe", "--config.data.name=camvit"], ["camvit", "camvid"]),
    (
        ["--mode=describe", "--config=configs/folder.py", "--config.data.dir=TMP"],
        ["no prepared folder", "--config.data.raw_dir=PATH", "classes.txt"],
    ),
    (["--config=configs/folder.py", "--config.data.raw_dir=TMP"], ["TMP", "classes.txt"]),
    (["--config=configs/ablations.py:dml,camvdi"], ["camvdi", "camvid"]),
    (["--config=configs/ablations.py:dlm,camvid"], ["dlm", "did you mean 'dml'"]),
    (["--config=configs/ablations.py"], ["configs/ablations.py:NAME", "dml, kd_mutual", "camvid"]),
    (["--config.losses.custom.weight=1"], ["losses.custom.fn is empty"]),
    (["--config.cnn.frozen=true", "--config.vit.frozen=true"], ["config.cnn.frozen", "learns"]),
    (["--mode=describe", "--coordinator_address=auto"], ["--mode=describe", "single process"]),
    (["--mode=check", "--coordinator_address=auto"], ["--mode=check", "single process"]),
    (["--mode=check", "--config.data.name=camvit"], ["camvit", "camvid"]),
    (["--mode=study"], ["--mode=study", "that of a run", "configs/studies"]),
    (["--config=configs/studies/shapes.py"], ["--mode=train", "that of a study"]),
    (["--mode=study", "--config=configs/studies/shapes.py", "--config.only=ful"], ["'full'"]),
    (["stray"], ["stray"]),
    (["--workdir=gs://bucket/run"], ["--workdir=gs://bucket/run", "folder of the file system"]),
    (
        ["--config=configs/camvid.py", "--config.data.raw_dir=ftp://host/CamVid"],
        ["config.data.raw_dir=ftp://host/CamVid", "gs://BUCKET/PATH", "s3://"],
    ),
    (
        ["--config=configs/camvid.py", "--config.data.raw_dir=/nowhere/CamVid"],
        ["/nowhere/CamVid"],
    ),
    (["--config=configs/camvid.py", "--config.data.dir=TMP"], ["--config.data.raw_dir=PATH"]),
    (["--config=configs/camvid.py", "--config.data.raw_dir=TMP"], ["TMP", "train"]),
]
# Folders in TMP that are checked, the exit code, and what is printed.
CHECKS = [
    ("raw", 0, ["camvid in TMP/raw", "0 errors, 8 warnings; check.json and check.png in TMP/run"]),
    ("spoilt", 1, ["errors (1)\n  train/train_001.jpg: image without label", "\n1 error, "]),
    ("none", 1, ["TMP/none: found nothing there", "1 error, 0 warnings; check.json in TMP/run"]),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(exit code, what was printed, the new folder) of each of MISTAKES, then of CHECKS."""
    commands, folders = {}, []
    check = ["--mode=check", "--config=configs/camvid.py"]
    checks = [[*check, f"--config.data.raw_dir=TMP/{raw}"] for raw, *_ in CHECKS]
    for flags in [*(flags for flags, _ in MISTAKES), *checks]:
        folder = tmp_path_factory.mktemp("case")
        flags = [flag.replace("TMP", str(folder)) for flag in flags]
        (folder / "trained").mkdir()
        record = {"format": FORMAT, "config": quickstart.get_config().to_dict()}
        record["spec"] = data.SPECS["shapes"].to_record()
        (folder / "trained/config.json").write_text(json.dumps(record))
        commands[str(folder / "printed")] = [f"--workdir={folder / 'run'}", *flags]
        folders.append(folder)
    for (raw, *_), folder in zip(CHECKS, folders[len(MISTAKES) :], strict=True):
        if raw != "none":
            trees.camvid(folder / raw)
        if raw == "spoilt":
            (folder / raw / "trainannot/train_001.png").unlink()
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(commands)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    codes = [int(line) for line in result.stdout.split()]
    return [
        (code, (folder / "printed").read_text().strip(), folder)
        for code, folder in zip(codes, folders, strict=True)
    ]


@pytest.mark.parametrize("case", range(len(MISTAKES)), ids=lambda i: " ".join(MISTAKES[i][0]))
def test_a_mistake_is_one_line(answers, case):
    code, message, folder = answers[case]
    assert code == 2, message
    assert message.startswith("error: ")
    assert "\n" not in message
    for part in MISTAKES[case][1]:
        assert part.replace("TMP", str(folder)) in message


@pytest.mark.parametrize("case", range(len(CHECKS)), ids=lambda i: CHECKS[i][0])
def test_a_check_exits_with_1_if_the_data_have_errors(answers, case):
    code, printed, folder = answers[len(MISTAKES) + case]
    _, expected, parts = CHECKS[case]
    assert code == expected, printed
    assert "Traceback" not in printed
    for part in parts:
        assert part.replace("TMP", str(folder)) in printed
    report = json.loads((folder / "run/check.json").read_text())
    assert len(report["errors"]) == expected


def test_workdir_is_named_after_the_config():
    assert main.config_name("configs/ade20k.py") == "ade20k"
    assert main.config_name("/somewhere/configs/studies/shapes.py") == "studies/shapes"
    assert main.config_name("my_config.py") == "my_config"
    assert main.config_name("configs/studies/shapes.py:few") == "studies/shapes_few"
    assert main.config_name("configs/ablations.py:dml,camvid") == "ablations_dml_camvid"


def test_devices_that_are_not_here_are_one_line(tmp_path):
    command = [sys.executable, "-m", "collabseg_jax.main", "--mode=describe"]
    environment = os.environ | {"JAX_PLATFORMS": "nowhere"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: JAX_PLATFORMS=nowhere: JAX finds no such device here")
    assert "JAX_PLATFORMS=cpu" in line
