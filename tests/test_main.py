"""The command line: mistakes are one line on standard error, exit code 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from collabseg_jax import main

ROOT = Path(__file__).parent.parent


def command(*flags):
    return subprocess.run(
        [sys.executable, "-m", "collabseg_jax.main", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
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
        (["--mode=trian"], ["trian", "train"]),
        (["--mode=eval"], ["config.json not found"]),
        (["stray"], ["stray"]),
        (
            ["--config=configs/camvid.py", "--config.data.raw_dir=/nowhere/CamVid"],
            ["/nowhere/CamVid"],
        ),
        (["--config=configs/camvid.py", "--config.data.dir=TMP"], ["--config.data.raw_dir=PATH"]),
        (["--config=configs/camvid.py", "--config.data.raw_dir=TMP"], ["TMP", "train"]),
    ],
)
def test_a_mistake_is_one_line(flags, expected, tmp_path):
    flags = [flag.replace("TMP", str(tmp_path)) for flag in flags]
    result = command(f"--workdir={tmp_path / 'run'}", *flags)
    message = result.stderr.strip()
    assert result.returncode == 2, message
    assert message.startswith("error: ")
    assert "\n" not in message
    for part in expected:
        assert part.replace("TMP", str(tmp_path)) in message


def test_workdir_is_named_after_the_config():
    assert main.config_name("configs/ade20k.py") == "ade20k"
    assert main.config_name("/somewhere/configs/ablations/dml.py") == "ablations/dml"
    assert main.config_name("my_config.py") == "my_config"
