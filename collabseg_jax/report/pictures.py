"""Pictures for people: sample pages, overlays, palette label maps."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from collabseg_jax import data
from collabseg_jax.collab.pair import STUDENTS, Pair
from collabseg_jax.collab.programs import jit_inspect
from collabseg_jax.collab.state import CollabState
from collabseg_jax.data.decode import decode_record
from collabseg_jax.data.transforms import (
    MIN_SIDE,
    network_size,
    pad_image,
    pad_label,
    resize_image,
    resize_label,
)
from collabseg_jax.report.drawing import plain

LONG_SIDE = 1024  # in pixels, of what is drawn
IGNORED_COLOR = (235, 235, 235)
# Who teaches at a pixel: (colour, what the legend says).
TEACHING = (
    ("#0b5fa5", "CNN teaches ViT, and is right"),
    ("#a9cbe8", "CNN teaches ViT, but is wrong"),
    ("#d1570a", "ViT teaches CNN, and is right"),
    ("#f6c7a3", "ViT teaches CNN, but is wrong"),
    ("#ebebeb", "no label, or a tie"),
)


Palette = Sequence[tuple[int, int, int]]  # one RGB in 0..255 for each class


def colorize(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Label map uint8 [H, W] -> RGB uint8 [H, W, 3]; 255 becomes light grey."""
    table = np.full((256, 3), IGNORED_COLOR, np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Palette, alpha: float = 0.55
) -> np.ndarray:
    """The colours of a label map laid over its image, uint8 [H, W, 3]."""
    mixed = (1 - alpha) * image + alpha * colorize(labels, palette)
    return mixed.round().astype(np.uint8)


def save_label_map(path: Path, labels: np.ndarray, palette: Palette) -> None:
    """A label map uint8 [H, W] as a palette PNG: its values are the class indices."""
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(np.asarray(palette, np.uint8).reshape(-1).tolist())
    picture.save(path)


def teaching_map(
    error: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], labels: np.ndarray
) -> np.ndarray:
    """Index into `TEACHING` at each pixel.

    Args:
      error: {student: cross-entropy [H, W]}; the lower one teaches.
      predictions: {student: [H, W]}.
      labels: [H, W], 255 = ignore.
    """
    right = {s: predictions[s] == labels for s in STUDENTS}
    index = np.full(labels.shape, 4)
    for offset, teacher, learner in ((0, "cnn", "vit"), (2, "vit", "cnn")):
        teaches = (error[teacher] < error[learner]) & (labels != data.IGNORE)
        index[teaches] = offset + np.where(right[teacher][teaches], 0, 1)
    return index


def draw_samples(
    path: Path,
    pair: Pair,
    state: CollabState,
    source: data.Source,
    spec: data.DatasetSpec,
    *,
    rows: int,
    short_side: int = 0,
) -> None:
    """A page of `rows` images: image, truth, both predictions, and who teaches whom.

    The students see each image whole, as it is drawn: at `short_side`, and no larger than
    `LONG_SIDE`.

    Args:
      path: of the PNG.
      pair: the students.
      state: of them.
      source: records; evenly spaced ones are drawn.
      spec: of the data set.
      rows: how many images; 0 for no page.
      short_side: see `config.eval`.
    """
    if rows < 1:
        return
    picks = np.linspace(0, len(source) - 1, min(rows, len(source))).round().astype(int)
    inspect = jit_inspect(pair=pair)
    # One device of this process is enough for a few pictures.
    variables = jax.device_get({s: getattr(state, s).variables for s in STUDENTS})
    figure = Figure(figsize=(13.5, 2.45 * len(picks) + 1.3), layout="constrained")
    axes = figure.subplots(len(picks), 5, squeeze=False)
    colors, seen = ListedColormap([color for color, _ in TEACHING]), set()
    for row, index in zip(axes, picks, strict=True):
        record = decode_record(source[int(index)], spec)
        size = network_size(record["label"].shape, short_side=short_side, long_side=LONG_SIDE)
        image, label = resize_image(record["image"], size), resize_label(record["label"], size)
        padded = max(MIN_SIDE, size[0]), max(MIN_SIDE, size[1])
        outputs = inspect(variables, pad_image(image, padded)[None], pad_label(label, padded)[None])
        predictions, error = (
            {s: np.asarray(maps[s][0, : size[0], : size[1]]) for s in STUDENTS} for maps in outputs
        )
        seen |= set(np.unique(label)) | {v for s in STUDENTS for v in np.unique(predictions[s])}
        panels = [image, *(colorize(m, spec.palette) for m in (label, *predictions.values()))]
        for axis, panel in zip(row, panels, strict=False):
            axis.imshow(panel)
        who = teaching_map(error, predictions, label)
        row[4].imshow(who, cmap=colors, vmin=-0.5, vmax=4.5, interpolation="nearest")
    titles = ("image", "truth", "CNN student", "ViT student", "who teaches whom")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    teaching = [Patch(color=color, label=text) for color, text in TEACHING]
    figure.legend(
        handles=_class_patches(seen, spec),
        loc="outside lower left",
        ncols=4,
        fontsize=8,
        title="classes",
        frameon=False,
    )
    figure.legend(
        handles=teaching,
        loc="outside lower right",
        ncols=2,
        fontsize=8,
        title="the student with the lower cross-entropy at a pixel teaches there",
        frameon=False,
    )
    figure.savefig(path, dpi=110)


def _matplotlib(color: tuple[int, int, int]) -> tuple[float, float, float]:
    return color[0] / 255, color[1] / 255, color[2] / 255


def _class_patches(seen: Iterable[int], spec: data.DatasetSpec) -> list[Patch]:
    """What a legend shows of the classes with these indices, in their order; 255 is left out."""
    return [
        Patch(color=_matplotlib(spec.palette[k]), label=plain(spec.classes[k]))
        for k in sorted(seen)
        if k < spec.num_classes
    ]


def draw_pairs(path: Path, samples: Sequence[tuple], spec: data.DatasetSpec) -> None:
    """A page of images, each next to itself under the colours of its label.

    Args:
      path: of the PNG.
      samples: (heading, name, image uint8 [H, W, 3], label uint8 [H, W]) of each, at least one; a
        heading stands above the first of those in a row that have the same.
      spec: of the data set.
    """
    headings = list(dict.fromkeys(heading for heading, *_ in samples))
    sections = {h: [sample[1:] for sample in samples if sample[0] == h] for h in headings}
    rows = [-(-len(section) // 2) for section in sections.values()]
    figure = Figure(figsize=(13.5, 2.75 * sum(rows) + 0.45 * len(rows) + 0.9), layout="constrained")
    seen = set()
    parts = figure.subfigures(len(sections), 1, height_ratios=rows, squeeze=False)[:, 0]
    for part, count, (heading, section) in zip(parts, rows, sections.items(), strict=True):
        part.suptitle(plain(heading), x=0.01, ha="left", fontweight="bold")
        axes = part.subplots(count, 4, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        places = axes.reshape(-1, 2)
        for (left, right), (name, image, label) in zip(places, section, strict=False):
            left.imshow(image)
            right.imshow(overlay(image, label, spec.palette))
            shown = name if len(name) < 50 else f"...{name[-46:]}"
            left.set_title(plain(shown), fontsize=8, loc="left")
            seen |= set(np.unique(label).tolist())
    handles = _class_patches(seen, spec)
    if data.IGNORE in seen:
        handles.append(Patch(color=_matplotlib(IGNORED_COLOR), label="ignored"))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=7,
        fontsize=8,
        title="classes",
        frameon=False,
    )
    figure.savefig(path, dpi=100)
