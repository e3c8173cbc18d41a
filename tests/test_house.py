"""The house keeps its order: imports go down only, every config builds, every key is read."""

import ast
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from collabseg_jax import data
from collabseg_jax.collab import objective, pair, state
from collabseg_jax.configs import ablations
from collabseg_jax.errors import InputError
from collabseg_jax.modes import study
from collabseg_jax.run.build import make_run
from collabseg_jax.run.config import flatten
from collabseg_jax.run.pages import load

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "collabseg_jax"
# Rooms from the ground up; a room may import from lower rows, and from itself.
LEVELS = (
    ("errors", "labels"),
    ("metrics",),
    ("ops", "losses"),
    ("models", "data"),
    ("collab",),
    ("interop", "report"),
    ("run",),
    ("modes",),
    ("main", "__init__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "collabseg_jax" and len(parts) > 1 and parts[1] in LEVEL:
                yield parts[1]


def test_imports_go_down_only():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        assert room in LEVEL, f"{room} has no level"
        for other in imported_rooms(path):
            if other != room and LEVEL[other] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert wrong == []


CONFIGS = sorted(
    p.relative_to(ROOT)
    for p in (ROOT / "configs").rglob("*.py")
    if p.stem not in ("__init__", "base", "ablations") and p.parent.name != "studies"
)
STUDIES = sorted(p.stem for p in (ROOT / "configs/studies").glob("[!_]*.py") if p.stem != "base")


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_builds(path, tmp_path):
    config = importlib.import_module(
        ".".join(("collabseg_jax", *path.with_suffix("").parts))
    ).get_config()
    (tmp_path / "classes.txt").write_text("road\nsky\n")  # read for `folder` alone
    spec = data.get_spec(config.data.name, raw_dir=str(tmp_path))
    built = make_run(config, spec=spec)

    def create(rng):
        return state.create_state(pair.init(built.pair, rng), built.optimizers, rng)

    created = jax.eval_shape(create, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, *config.data.crop, 3), jnp.float32)
    for name in pair.STUDENTS:
        model, part = getattr(built.pair, name), getattr(created, name)
        output = jax.eval_shape(
            lambda v, x, m=model: m.apply(v, x, train=False), part.variables, images
        )
        assert output.logits.shape[-1] == spec.num_classes


@pytest.mark.parametrize("base", ablations.BASES)
def test_every_ablation_is_another_one(base):
    """Each row is a config of its own; of the config it starts from, only its keys differ."""
    start, seen = flatten(ablations.start(base)), {}
    for name, changes in ablations.ABLATIONS.items():
        config = ablations.get_config(f"{name},{base}")
        flat = flatten(config)
        assert {key for key in flat if flat[key] != start[key]} == set(changes)
        goal = objective.build_objective({k: dict(row) for k, row in config.losses.items()})
        used = sorted((k, sorted(goal.options[k].items())) for k in goal.weights)
        key = repr((used, goal.weights, goal.needs, dict(config.bridges)))
        assert key not in seen, f"{name} is {seen.get(key)} again"
        seen[key] = name
        assert (goal.weights == {}) == (name == "alone")
        assert (changes == {}) == (name == "full")


def test_an_ablation_alone_is_of_the_quickstart_and_weights_grow_from_the_base():
    assert ablations.get_config("dml") == ablations.get_config("dml,quickstart")
    strong = ablations.get_config("full_strong,camvid").losses
    assert (strong.hfd.weight, strong.bsd_region.weight) == (8.0, 2.0)
    assert strong.bsd_pixel.weight == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("", "expected configs/ablations.py:NAME or :NAME,CONFIG; names: alone, full, "),
        ("dlm", "unknown ablation 'dlm'; did you mean 'dml'.* valid: alone, at, "),
        ("dml,camvdi", "unknown config 'camvdi'; did you mean 'camvid'.* valid: ade20k, "),
        ("dml,", "unknown config ''.* valid: ade20k, "),
    ],
)
def test_an_ablation_that_does_not_exist(choice, message):
    with pytest.raises(InputError, match=message):
        ablations.get_config(choice)


@pytest.mark.parametrize(
    "name", [*STUDIES, "shapes:few", "camvid:few", "camvid:weights", "camvid:gpu"]
)
def test_every_arm_of_every_study_builds(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *size = name.split(":")
    config = importlib.import_module(f"collabseg_jax.configs.studies.{name}").get_config(*size)
    runs = study.plan(config, tmp_path)
    assert len(runs) == len(config.arms) * len(config.seeds)
    # What a study changes for all is of one kind: how much is trained on, and when it is scored.
    reference = next(one for one in runs if one.arm == "full")
    assert not [flag for flag in reference.flags if "losses" in flag or ".model" in flag]


def test_every_key_is_read():
    """A key of base.py is named in the package, or goes into a constructor as keyword."""
    text = "".join(p.read_text() for p in PACKAGE.rglob("*.py") if "configs" not in p.parts)
    for key in load("studies/base:quickstart"):
        assert f"config.{key}" in text
    unread = []
    for key in flatten(load("base")):
        section, _, leaf = key.rpartition(".")
        as_keyword = section in ("cnn", "vit", "bridges") or section.startswith("losses.")
        pattern = rf"\b{leaf}\b" if as_keyword else rf"config\.{re.escape(key)}\b"
        if not re.search(pattern, text) and key not in JITTER:
            unread.append(key)
    assert unread == []


# Read by a loop in run/build.py.
JITTER = {f"data.{k}" for k in ("brightness", "contrast", "saturation", "hue")}


def test_no_torch_and_no_tensorflow_come_along():
    import subprocess
    import sys

    code = (
        "import sys, collabseg_jax.modes.train, collabseg_jax.modes.predict;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
