"""What is installed elsewhere: a wheel holds the whole package and nothing else, and it runs."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import collabseg_jax
from tests import quick

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# What a packager could take for a part of the package is copied too.
TREE = ("collabseg_jax", "configs", "tests", "benchmarks", "launch", "docs")
FILES = ("pyproject.toml", "README.md", "LICENSE")


def call(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments):
    call(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as a build leaves files behind that the next one would take in."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheels")
    clutter = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in TREE:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=clutter)
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(out), str(tree))
    [made] = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """(bin folder, environment) of a venv whose own package is only the wheel.

    All else comes from the environment of the tests, after the venv's own; .pth files there, as
    that of an editable installation, are not read.
    """
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip("--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    [packages] = home.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return home / "bin", environment | {"XLA_FLAGS": quick.xla_flags(1)}


def test_it_holds_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = (ROOT / "collabseg_jax").rglob("*.py")
    pages = (ROOT / "configs").rglob("*.py")
    expected = {str(path.relative_to(ROOT)) for path in package if "configs" not in path.parts}
    expected |= {f"collabseg_jax/{path.relative_to(ROOT)}" for path in pages}
    assert names == expected | {"collabseg_jax/py.typed"}
    assert {
        "collabseg_jax/configs/quickstart.py",
        "collabseg_jax/configs/studies/camvid.py",
    } < names


def test_the_version_has_one_source(installed, tmp_path):
    folder, environment = installed
    code = (
        "import collabseg_jax as c, importlib.metadata as m\n"
        "print(c.__file__, c.__version__, m.version('collabseg_jax'))"
    )
    said = call(folder / "python", "-c", code, cwd=tmp_path, env=environment)
    file, *versions = said.split()
    assert Path(file).is_relative_to(folder.parent)
    assert versions == [collabseg_jax.__version__] * 2


def test_the_command_trains_and_describes(installed, tmp_path):
    folder, environment = installed
    arguments = ["--config.steps=4", "--config.eval.every=0", f"--config.data.dir={tmp_path}/tfds"]
    command = [folder / "collabseg", "--config=quickstart", "--workdir=run", *arguments]
    call(*command, cwd=tmp_path, env=environment)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["step"] == 4
    assert 0 <= results["ensemble"]["miou"] <= 1
    command = [folder / "collabseg", "--config=ablations:dml", "--mode=describe"]
    said = call(*command, cwd=tmp_path, env=environment)
    assert said.startswith("shapes: 8 classes.")
    assert "bridges (training only)" not in said  # the quickstart has some, this row has not
