"""The user's own images and labels; a text file next to them names the classes."""

import dataclasses
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data import places
from collabseg_jax.data.builders import base, finding
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

CLASSES_FILE = "classes.txt"
_IGNORED = "ignore"  # in that file, the name of what is not a class
IMAGE_SUFFIXES = (*finding.IMAGE_SUFFIXES, ".bmp", ".tif", ".tiff", ".webp")

SPEC = DatasetSpec(
    name="folder",
    classes=(),
    palette=(),
    splits=("train", "val"),
    source="own pictures: images/{train,val}, labels/{train,val}, and classes.txt with one class a "
    "line, NAME or NAME R G B",
    licence="that of the pictures",
)


class Folder(base.PairBuilder):
    """`raw_dir/images/{train,val}`, `raw_dir/labels/{train,val}` and `raw_dir/classes.txt`.

    An image and its label have the same path below their split's folder, apart from the suffix.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SPEC = SPEC
    EXTRA_FILES = (CLASSES_FILE,)
    name = SPEC.name

    @classmethod
    def find_spec(cls, raw_dir: Path, report: finding.Report = finding.refuse) -> DatasetSpec:
        """The spec with the classes of `classes.txt`; see the base class."""
        finding.check_folder(SPEC, raw_dir)
        path = raw_dir / CLASSES_FILE
        try:
            return parse_classes(path.read_bytes().decode("utf-8-sig"), str(path))
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; expected one class a line, NAME or NAME R G B"
            ) from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: byte {error.start} is no UTF-8, expected a text file in UTF-8"
            ) from None

    @classmethod
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.LabelledImage]]:
        """The pairs of all splits that exist; see the base class."""
        finding.check_folder(SPEC, raw_dir)
        pairs: dict[str, list[finding.LabelledImage]] = {}
        for split in SPEC.splits:
            images, labels = raw_dir / "images" / split, raw_dir / "labels" / split
            if not (images.is_dir() or labels.is_dir()):
                continue
            pairs[split] = []
            with finding.reporting(report):
                matched = finding.match_pairs(
                    _files(images, report),
                    _files(labels, report),
                    where=f"{images} and {labels}",
                    report=report,
                )
                for pair in matched:
                    if pair.label.suffix.lower() in finding.LABEL_SUFFIXES:
                        pair = dataclasses.replace(pair, name=f"{split}/{pair.name}")
                        pairs[split].append(pair)
                    else:
                        report(f"{pair.label}: a label, expected PNG (lossless, unlike JPEG)")
        if not pairs:
            raise finding.no_such_set(SPEC, raw_dir, "images/train and labels/train")
        return pairs


def _files(folder: Path, report: finding.Report) -> dict[str, Path]:
    """Images in `folder` and all folders below, by their path in it without the suffix."""
    files: dict[str, Path] = {}
    below = sorted(_folders_below(folder)) if folder.is_dir() else []
    for inner in (folder, *below):
        place = inner.relative_to(folder)
        if any(part.startswith(".") for part in place.parts):
            continue
        for stem, path in finding.files_by_stem(inner, IMAGE_SUFFIXES, report=report).items():
            files[(place / stem).as_posix()] = path
    return files


def _folders_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Folders at any depth; a link to a folder that contains it (`above`) is not followed."""
    above |= {os.path.realpath(folder)}
    with places.scandir(folder) as entries:
        below = [folder / entry.name for entry in entries if entry.is_dir()]
    for inner in below:
        if os.path.realpath(inner) not in above:
            yield inner
            yield from _folders_below(inner, above)


def parse_classes(text: str, where: str) -> DatasetSpec:
    """The spec that a `classes.txt` describes.

    A line is `NAME` or `NAME R G B`; names may contain spaces. In labels of indices, the classes
    have the values 0, 1, ... in the order of the lines. `ignore R G B` and `ignore N` are pixels
    that do not count, as is the index 255; classes below an `ignore N` skip the index N. Empty
    lines and those that begin with # are skipped.

    Args:
      text: of the file.
      where: what to call the file in a message.

    Returns:
      a spec whose `label_colors` is empty unless every class has a colour; classes without one
      have a generated colour in the palette.

    Raises:
      InputError: a line is none of these, or repeats a name, a colour or an index; or there are
        fewer than two classes, or too many for the indices 0..254.

    Example:
      >>> from collabseg_jax.data.builders.folder import parse_classes
      >>> spec = parse_classes("road 128 64 128\\nsky 70 130 180\\nignore 0 0 0", "classes.txt")
      >>> spec.classes, dict(spec.label_colors)
      (('road', 'sky'), {(128, 64, 128): 0, (70, 130, 180): 1, (0, 0, 0): 255})
    """
    names: list[str] = []
    colors: list[tuple[int, int, int] | None] = []
    label_values: dict[int, int] = {IGNORE: IGNORE}
    label_colors: dict[tuple[int, int, int], int] = {}
    owners: dict[Hashable, str] = {}  # of a name, an index or a colour
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        at = f"{where}, line {number}"
        name, numbers = _parse_line(line, at)
        index: int | None = None
        color: tuple[int, int, int] | None = None
        if len(numbers) == 1:
            index = numbers[0]
        elif numbers:
            color = numbers[0], numbers[1], numbers[2]
        if name == _IGNORED:
            train_id = IGNORE
        else:
            train_id = len(names)
            index = next((i for i in range(IGNORE) if i not in label_values), None)
            if index is None:
                raise InputError(f"{at}: no index is left for {name!r}, expected at most {IGNORE}")
            _claim(owners, name, "name", f"{name!r} (line {number})", at)
            names.append(name)
            colors.append(color)
        if index is not None:
            _claim(owners, index, "index", f"{name!r} (line {number})", at)
            label_values[index] = train_id
        if color is not None:
            _claim(owners, color, "colour", f"{name!r} (line {number})", at)
            label_colors[color] = train_id
    if len(names) < 2:
        what = f"only the class {names[0]!r}" if names else "no classes"
        raise InputError(
            f"{where}: {what}, expected at least two (the background is one), each on a line: "
            "NAME or NAME R G B"
        )
    return dataclasses.replace(
        SPEC,
        classes=tuple(names),
        palette=_palette(colors, label_colors),
        label_values=label_values,
        official_values=tuple(i for i, train_id in label_values.items() if train_id != IGNORE),
        label_colors={} if None in colors else label_colors,
    )


def _parse_line(line: str, at: str) -> tuple[str, tuple[int, ...]]:
    """The name and the numbers after it: three or none, or one after `ignore`."""
    words = line.split()
    end = len(words)
    while end > 0 and re.fullmatch(r"[+-]?\d+", words[end - 1]):
        end -= 1
    name, numbers = " ".join(words[:end]), tuple(int(word) for word in words[end:])
    # Otherwise "road 128,64,128" is a name.
    named = end > 0 and any(letter.isalpha() for letter in words[end - 1])
    if not named or len(numbers) not in ((1, 3) if name == _IGNORED else (0, 3)):
        raise InputError(
            f"{at}: found {line.strip()!r}, expected NAME or NAME R G B (the last word of a name "
            "has a letter in it), ignore R G B or ignore N"
        )
    if not all(0 <= value <= 255 for value in numbers):
        raise InputError(f"{at}: found {line.strip()!r}, expected numbers in 0..255")
    return name, numbers


def _claim(owners: dict[Hashable, str], key: Hashable, kind: str, owner: str, at: str) -> None:
    """Notes who has a name, an index or a colour; InputError if something else has it already."""
    if key in owners:
        hint = (
            f"; above the classes, ignore {key} makes them leave it out" if kind == "index" else ""
        )
        raise InputError(
            f"{at}: the {kind} {key!r} is that of {owners[key]}, expected it only once{hint}"
        )
    owners[key] = owner


def _palette(
    colors: Sequence[tuple[int, int, int] | None], listed: Iterable[tuple[int, int, int]]
) -> tuple[tuple[int, int, int], ...]:
    """The colours, each None replaced by a colour far from all others.

    Args:
      colors: (r, g, b) or None, of each class.
      listed: more colours to be far from.
    """
    levels = np.linspace(0, 255, 8).round().astype(int)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    # Also far from black and white, which look like lines and paper.
    near = np.full(len(candidates), np.inf)
    for other in [(0, 0, 0), (255, 255, 255), *listed]:
        near = np.minimum(near, np.linalg.norm(candidates - other, axis=1))
    palette = []
    for color in colors:
        if color is None:
            red, green, blue = candidates[near.argmax()].tolist()
            color = red, green, blue
            near = np.minimum(near, np.linalg.norm(candidates - color, axis=1))
        palette.append(color)
    return tuple(palette)
