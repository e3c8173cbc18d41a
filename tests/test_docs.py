"""What people read keeps its promises: examples run, links lead somewhere, words are plain."""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import json
import pkgutil
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from collabseg_jax import interop, losses, metrics, models

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path
    for folder in ("collabseg_jax", "configs", "launch", "tests", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)
NOTEBOOK = ROOT / "docs/first_day.ipynb"


def public(module):
    """The functions and classes that a module offers, by name."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    values = {name: getattr(module, name) for name in names}
    return {name: value for name, value in values.items() if callable(value)}


PUBLIC = {
    f"{module.__name__}.{name}": value
    for module in (losses, models, metrics, interop)
    for name, value in public(module).items()
}


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_has_an_example(name):
    text = inspect.getdoc(PUBLIC[name])
    assert text, "no docstring"
    _, heading, rest = text.partition("\n\nExample:\n")
    assert heading, "no section `Example:` after a blank line"
    assert doctest.DocTestParser().get_examples(rest), "no line begins with >>>"


def test_public_names_are_the_ones_meant():
    assert {"hfd", "bsd_pixel", "kl"} <= public(losses).keys()
    assert public(metrics).keys() == {"Confusion", "confusion_matrix", "scores"}
    assert "build" in public(models) and "MODELS" not in public(models)


MODULES = [
    *(
        f"{package.__name__}.{module.name}"
        for package in (losses, models, interop)
        for module in pkgutil.iter_modules(package.__path__)
    ),
    *(package.__name__ for package in (losses, models, interop, metrics)),
    *(f"collabseg_jax.collab.{n}" for n in ("pair", "optim", "augment", "inference", "objective")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # of a failure
        failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0, said.getvalue()


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1300
    assert len(text.splitlines()) <= 150


def test_the_code_in_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, names)
    loss = names["loss"]
    assert isinstance(loss, jax.Array) and loss.shape == ()
    assert np.isfinite(loss) and loss > 0
    assert said.getvalue() == ""


def prose(path):
    """A page without its blocks of code; of a notebook, the text between them."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)


def anchors(path):
    """What can follow `#` in a link to a page, as GitHub makes it from the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_links_and_anchors_are_seen():
    assert "devices-configmesh" in anchors(ROOT / "docs/scaling.md")
    assert "](docs/data.md)" in prose(ROOT / "README.md")


# What used to be said here in words of our own, and the usual term.
WORDS = {
    r"on the way back": "in the backward pass",
    r"insides": "activations",
    r"hangs on": "depends on",
    r"(is|was|are|were|be|been) made anew|works? out again|worked out again": "recomputed",
    r"beside": "compared with, or next to",
    r"stands in(?! for)": "is in",
    r"cannot be(?=\s*[.,;:)\"'])": "is invalid, or is out of range",
}


@pytest.mark.parametrize("words", WORDS)
def test_words_are_plain(words):
    # A line may end between two words, and the next one begin with the sign of a comment.
    spaced = words.replace(" ", r"\s+(?:# )?")
    pattern = re.compile(rf"\b(?:{spaced})(?!\w)", re.I)
    places = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
        for path in (*PAGES, *SOURCES, NOTEBOOK)
        for text in [path.read_text()]
        for match in pattern.finditer(text)
    ]
    assert places == [], f"write: {WORDS[words]}"


def test_no_variable_is_called_found():
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "found")
        or (isinstance(node, ast.arg) and node.arg == "found")
    ]
    assert places == []
