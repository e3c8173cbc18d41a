"""A user's own loss: found by name, handed a View, and refused in one line."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collabseg_jax.collab import custom, objective, pair
from collabseg_jax.errors import InputError
from collabseg_jax.models.outputs import SegOutput

DOC = Path(__file__).parents[2] / "docs" / "method.md"
SHAPE = (2, 6, 8)


def build(fn, weight=1.0, **row):
    row = {"fn": fn, "weight": weight, **row}
    return objective.build_objective({"ce": {"weight": 1.0}, "custom": row})


def output_of(params):
    """Students that are nothing but their logits and features."""
    students = {name: SegOutput((p["f"],) * 4, p["f"], p["z"]) for name, p in params.items()}
    return pair.PairOutput(students, {})


def evaluate(goal, params, labels):
    rng = jax.random.key(0)
    return objective.evaluate_objective(goal, output_of(params), labels, step=0, rng=rng)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)

    def normal(channels):
        return rng.normal(size=(*SHAPE, channels)).astype(np.float32)

    params = {name: {"z": normal(3), "f": normal(4)} for name in pair.STUDENTS}
    labels = rng.integers(0, 3, SHAPE)
    labels[0, 0] = 255
    return params, labels


def test_the_example_of_the_documentation(case, tmp_path, monkeypatch):
    """It is extracted, run by both spellings, and held against the formula."""
    code = re.search(r"```python\n(.*?def my_loss.*?)```", DOC.read_text(), re.S)[1]
    assert len(code.strip().splitlines()) <= 10
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "my_file.py").write_text(code)
    params, labels = case
    p, q = (
        np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        for z in (params[s]["z"] for s in pair.STUDENTS)
    )
    expected = np.abs(p - q).sum(-1)[labels != 255].mean()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("my_pkg.my_file:my_loss", "my_pkg/my_file.py:my_loss"):
        assert name in DOC.read_text()
        goal = build(name, weight=2.0)
        totals, logs = evaluate(goal, params, labels)
        for student in pair.STUDENTS:
            np.testing.assert_allclose(logs[f"{student}/custom"], expected, rtol=1e-5)
            total = logs[f"{student}/ce"] + 2 * expected
            np.testing.assert_allclose(totals[student], total, rtol=1e-5)
    monkeypatch.delitem(sys.modules, "my_pkg.my_file")


def test_a_file_may_have_what_looks_its_module_up(tmp_path):
    """Dataclasses do, where annotations are strings."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nimport dataclasses\n\n\n@dataclasses.dataclass\n"
        "class Mine:\n    x: int\n\n\ndef loss(view):\n    return Mine(3).x\n"
    )
    assert custom.load(f"{path}:loss")(None) == 3


def write(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(f"import jax.numpy as jnp\n\n\ndef loss(view):\n    {body}\n")
    return f"{path}:loss"


def test_the_peer_is_stopped(case, tmp_path):
    """Even if the function forgets it."""
    params, labels = case
    goal = build(write(tmp_path, "return jnp.mean((view.logits - view.peer.logits) ** 2)"))
    grads = jax.grad(lambda p: evaluate(goal, p, labels)[1]["cnn/custom"])(params)
    assert np.abs(grads["cnn"]["z"]).max() > 0 and not np.asarray(grads["vit"]["z"]).any()


def test_every_field_is_there(case, tmp_path):
    """All that the View's description promises without `needs`, and nothing else."""
    params, labels = case
    body = f"""for side in (view, view.peer):
        for name in side._fields:
            if name not in ("peer", "crossed"):
                assert getattr(side, name).shape[:3] == {SHAPE}, name
        assert not side.crossed
    return jnp.sum(view.ce)"""
    evaluate(build(write(tmp_path, body)), params, labels)


def test_what_it_needs_is_built():
    assert build("a:b", needs="hfd, mgd").needs == ("hfd", "mgd")
    assert build("a:b", needs="hfd", weight=0.0).needs == ()


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        ("return view.ce", "an array of shape (2, 6, 8), expected a scalar"),
        ("return None", "returned None, expected a scalar"),
        ("return {'a': view.ce.mean()}", "expected a scalar"),
    ],
)
def test_what_is_no_scalar(case, tmp_path, body, excerpt):
    params, labels = case
    with pytest.raises(InputError, match=re.escape(excerpt)):
        evaluate(build(write(tmp_path, body)), params, labels)


@pytest.mark.parametrize(
    ("name", "excerpt"),
    [
        ("no_such_package.file:loss", "no module no_such_package"),
        ("collabseg_jax.losses:lose", "collabseg_jax.losses has no function lose"),
        ("collabseg_jax.losses:__doc__", "has no function __doc__"),
        ("missing.py:loss", "no file missing.py"),
        ("collabseg_jax.losses", "no place or no function"),
    ],
)
def test_what_cannot_be_found(name, excerpt):
    with pytest.raises(InputError, match=re.escape(f"losses.custom.fn is {name!r}: ")) as error:
        custom.load(name)
    assert excerpt in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"fn": "", "weight": 1.0}, "losses.custom.fn is empty"),
        ({"fn": "a:b", "weight": float("inf")}, "losses.custom.weight is inf"),
        ({"fn": "a:b", "weight": 1.0, "needs": "f4"}, "unknown losses.custom.needs 'f4'"),
    ],
)
def test_rows_that_cannot_be(row, message):
    with pytest.raises(InputError, match=re.escape(message)):
        objective.build_objective({"ce": {"weight": 1.0}, "custom": row})


def test_integers_become_float(case, tmp_path):
    params, labels = case
    _, logs = evaluate(build(write(tmp_path, "return jnp.sum(view.valid)")), params, labels)
    assert logs["cnn/custom"].dtype == jnp.float32 and logs["cnn/custom"] == (labels != 255).sum()
