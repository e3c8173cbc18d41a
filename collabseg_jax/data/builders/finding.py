"""Finds pairs of image and label files in a raw tree, and reports what is wrong with them."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from collabseg_jax.data import places
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)

# Takes one or more messages of one kind, about files that cannot be used; if it returns, the
# caller goes on without these files.
Report = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """One image file with its label file; `name` is unique within a split."""

    name: str
    image: Path
    label: Path


def refuse(*messages: str) -> None:
    """The report that raises an InputError with the first message."""
    more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
    raise InputError(messages[0] + more) from None


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """Reports an InputError that is raised inside, which ends only what is inside."""
    try:
        yield
    except InputError as error:
        report(str(error))


def check_folder(spec: DatasetSpec, raw_dir: Path) -> None:
    """Raises InputError unless `raw_dir` is a folder with something in it."""
    if not raw_dir.is_dir():
        what = "a file" if raw_dir.exists() else "nothing there"
        raise InputError(
            f"config.data.raw_dir={raw_dir}: found {what}, expected the folder of {spec.name} "
            f"({spec.source})"
        )
    if not any(raw_dir.iterdir()):
        raise InputError(
            f"config.data.raw_dir={raw_dir}: the folder is empty, expected {spec.name} "
            f"({spec.source})"
        )


def no_such_set(spec: DatasetSpec, raw_dir: Path, expected: str) -> InputError:
    """The error for a folder that contains something else."""
    names = ", ".join(sorted(path.name for path in raw_dir.iterdir())[:5])
    return InputError(
        f"config.data.raw_dir={raw_dir}: found {names}, expected {expected} of {spec.name} "
        f"({spec.source})"
    )


def files_by_stem(
    folder: Path, suffixes: tuple[str, ...], ending: str = "", report: Report = refuse
) -> dict[str, Path]:
    """The files of `folder` with one of the suffixes (any case), by stem; without hidden files.

    Args:
      folder: where to look; folders inside it are not searched.
      suffixes: with their dots, lower case.
      ending: only stems with this ending, which is left out of the keys.
      report: called for empty files (which the result has nevertheless), for files that cannot be
        read, and for files that share their stem with another.

    Raises:
      InputError: the folder does not exist; by `refuse`, the first problem.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected files {', '.join(suffixes)} in it")
    files: dict[str, Path] = {}
    with places.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            stem, suffix = os.path.splitext(entry.name)
            if entry.name.startswith(".") or suffix.lower() not in suffixes:
                continue
            if not stem.endswith(ending):
                continue
            stem = stem.removesuffix(ending)
            try:
                entry.path.encode()
            except UnicodeEncodeError:
                report(f"{entry.path!r}: the name is no UTF-8, expected one that is")
                continue
            try:
                size = entry.stat().st_size
            except OSError as error:  # a link to nowhere
                report(f"{entry.path}: {error.strerror}, expected a {suffix.lower()} file")
                continue
            if size == 0:
                report(f"{entry.path}: 0 bytes, expected a {suffix.lower()} file")
            if stem in files:
                report(
                    f"{entry.path}: shares its name with {files[stem].name}, expected one file "
                    f"for {stem}"
                )
                continue
            files[stem] = folder / entry.name
    return files


def match_pairs(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    where: str,
    endings: tuple[str, str] = (".*", ".*"),
    report: Report = refuse,
) -> list[LabelledImage]:
    """Images and labels of the same stem, sorted by stem.

    Args:
      images: stem -> image file.
      labels: stem -> label file.
      where: the folders in words, for a message.
      endings: what follows the stem in the names of images and of labels, for a message.
      report: called for files without a counterpart, or if there are no images at all.
    """
    sides = (("image", images, labels, "a label"), ("label", labels, images, "an image"))
    for (have, other, lack, missing), ending in zip(sides, reversed(endings), strict=True):
        if lonely := sorted(other.keys() - lack.keys()):
            report(
                *(
                    f"{other[stem]}: {have} without {missing.split()[1]}, expected {missing} named "
                    f"{stem}{ending} in {where}"
                    for stem in lonely
                )
            )
    if not images:
        report(f"{where}: found no images, expected {', '.join(IMAGE_SUFFIXES)} files")
    return [
        LabelledImage(stem, images[stem], labels[stem])
        for stem in sorted(images.keys() & labels.keys())
    ]


def pairs_of_folders(
    spec: DatasetSpec,
    raw_dir: Path,
    folders: Mapping[str, tuple[Path, Path]],
    report: Report = refuse,
) -> dict[str, list[LabelledImage]]:
    """The pairs of all splits that exist, where each has a folder of images and one of labels.

    Args:
      spec: of the data set.
      raw_dir: as the user gave it.
      folders: split -> (folder of images, folder of labels).
      report: called for everything that is wrong with the files of a split.

    Raises:
      InputError: no split exists; by `refuse`, the first problem.
    """
    check_folder(spec, raw_dir)
    pairs: dict[str, list[LabelledImage]] = {}
    for split, (images, labels) in folders.items():
        if not (images.is_dir() or labels.is_dir()):
            continue
        pairs[split] = []
        with reporting(report):
            pairs[split] = match_pairs(
                files_by_stem(images, IMAGE_SUFFIXES, report=report),
                files_by_stem(labels, LABEL_SUFFIXES, report=report),
                where=f"{images} and {labels}",
                report=report,
            )
    if not pairs:
        raise no_such_set(spec, raw_dir, "a split folder")
    return pairs
