"""A picture that cannot be drawn ends nothing, and any name is only text."""

import warnings

import numpy as np
import pytest

from collabseg_jax.data import DatasetSpec
from collabseg_jax.report import drawing, pictures

NAMES = (
    *("US$ and EUR$", r"$\frac{$", "_background_", '"a|b<c>"', r"\alpha_{", "50% {x}"),
    *("\u05de\u05d9\u05dd", "\u9053\u8def"),  # right to left; Chinese
)


def spec_of(names):
    return DatasetSpec(
        name="folder",
        classes=tuple(names),
        palette=tuple((10 * i, 200 - 10 * i, 90) for i in range(len(names))),
        splits=("train",),
    )


def test_names_of_classes_and_files_are_only_text(tmp_path, monkeypatch):
    """Read back from the figure: every name is there, letter by letter."""
    seen = []
    save = pictures.Figure.savefig

    def keep(figure, *arguments, **options):
        save(figure, *arguments, **options)
        texts = [text for legend in figure.legends for text in legend.get_texts()]
        titles = [axis.title for part in figure.subfigs for axis in part.axes]
        titles += [axis._left_title for part in figure.subfigs for axis in part.axes]
        seen.extend(text.get_text() for text in [*texts, *titles])

    monkeypatch.setattr(pictures.Figure, "savefig", keep)
    label = np.arange(len(NAMES), dtype=np.uint8)[None].repeat(4, 0)
    image = np.zeros((*label.shape, 3), np.uint8)
    samples = [("train", name, image, label) for name in NAMES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font may lack a letter
        pictures.draw_pairs(tmp_path / "page.png", samples, spec_of(NAMES))
    assert (tmp_path / "page.png").stat().st_size > 1000
    shown = [text.strip().replace(r"\$", "$") for text in seen]
    for name in NAMES:
        assert shown.count(name) == 2, name  # a class in the legend and the title of a pair


def test_a_picture_that_fails_is_one_line(tmp_path):
    def draw(path):
        raise ValueError("Expected end of text\nfound '$'")

    problem = drawing.attempt(tmp_path / "a.png", draw)
    assert problem == f"{tmp_path}/a.png: no picture: ValueError: Expected end of text"
    assert drawing.attempt(tmp_path / "b.png", lambda path: path.touch()) == ""


def test_only_errors_are_kept_from_ending_a_run(tmp_path):
    def draw(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawing.attempt(tmp_path / "a.png", draw)
