"""What all data sets of image and label files share: finding pairs, writing them as records."""

import abc
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from collabseg_jax.data import places
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)

# Takes messages of one kind, at least one, about files that cannot be used; what returns from it
# goes on without these files.
Report = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One image file with its label file; `name` is unique within a split."""

    name: str
    image: Path
    label: Path


def refuse(*messages: str) -> None:
    """The report that ends everything: an InputError of the first message."""
    more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
    raise InputError(messages[0] + more) from None


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[None]:
    """An InputError inside is reported, and ends no more than what is inside."""
    try:
        yield
    except InputError as error:
        report(str(error))


@dataclasses.dataclass(frozen=True)
class Lazily(Sequence):
    """make(item) for each of the items, at the time it is asked for."""

    make: Callable
    items: Sequence

    def __len__(self) -> int:
        """How many."""
        return len(self.items)

    def __getitem__(self, index: int):
        """Made anew every time."""
        return self.make(self.items[index])


class RecordBuilder(tfds.core.dataset_builder.FileReaderBuilder):
    """A TFDS builder that reads; `collabseg_jax.data.prepare` writes what it reads."""

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        # TFDS's own way starts anew after a kill, needs a split's memory, and reads nothing back.
        raise NotImplementedError("collabseg_jax.data.prepare makes the copies of this data set")


class PairBuilder(RecordBuilder):
    """A builder over files: a subclass gives VERSION, SPEC, `name` and `find_pairs`.

    One whose raw files say what their labels mean overrides `find_spec` too, and EXTRA_FILES if
    files besides images and labels say it.

    The config name is the fingerprint of the raw files, so that every raw tree has a prepared copy
    of its own. The files' own bytes are stored, in the order of `find_pairs`, and with them the
    spec of this copy.
    """

    SPEC: DatasetSpec
    FOLDERS: tuple[str, ...] = ()  # that archives add around the data; raw_dir may be their parent
    # Paths in raw_dir of files besides images and labels that make a tree another data set.
    EXTRA_FILES: tuple[str, ...] = ()

    def __init__(self, *, raw_dir: str = "", spec: DatasetSpec | None = None, **kwargs):
        """Takes `raw_dir` and `spec`, noted in a new copy, and what every TFDS builder takes."""
        self._raw_dir, self._spec = raw_dir, spec or self.SPEC
        super().__init__(**kwargs)

    @classmethod
    def root(cls, raw_dir: Path) -> Path:
        """The folder where the layout begins: `raw_dir`, or one of FOLDERS inside it."""
        for name in cls.FOLDERS:
            raw_dir = raw_dir / name if (raw_dir / name).is_dir() else raw_dir
        return raw_dir

    @classmethod
    @abc.abstractmethod
    def find_pairs(cls, raw_dir: Path, report: Report = refuse) -> dict[str, list[Pair]]:
        """The pairs of every split that `raw_dir` has, sorted by name.

        Args:
          raw_dir: as the person gave it.
          report: told of every file that is missing, alone, double or empty. If it returns, the
            other pairs are found nevertheless (those with an empty file too).

        Raises:
          InputError: nothing looks like this data set; by `refuse`, the first problem.
        """

    @classmethod
    def find_spec(cls, raw_dir: Path, report: Report = refuse) -> DatasetSpec:
        """The spec of a raw tree: SPEC, with what the files themselves say.

        Args:
          raw_dir: as the person gave it.
          report: as for `find_pairs`, where the pairs decide.

        Raises:
          InputError: they do not say it, or contradict each other.
        """
        return cls.SPEC

    @classmethod
    def get_builder_config(cls, name, version=None):
        """Any fingerprint is a config; TFDS would warn of a custom one."""
        return tfds.core.BuilderConfig(name=name, version=version or cls.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png")
        features = {
            "image": tfds.features.Image(),
            "label": label,
            "name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self._spec.name} ({self._spec.licence})",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                raw_dir=os.fspath(self._raw_dir), spec=self._spec.to_record()
            ),
        )

    @classmethod
    def records(cls, pairs: Mapping[str, list[Pair]]) -> dict[str, Sequence[dict]]:
        """What a copy holds of these pairs: {split: {"image", "label": bytes, "name": str}, ...}"""
        return {split: Lazily(_read, members) for split, members in pairs.items()}


def _read(pair: Pair) -> dict:
    return {
        "image": pair.image.read_bytes(),
        "label": pair.label.read_bytes(),
        "name": pair.name,
    }


def check_folder(spec: DatasetSpec, raw_dir: Path) -> None:
    """Raises InputError unless `raw_dir` is a folder with something in it."""
    if not raw_dir.is_dir():
        found = "a file" if raw_dir.exists() else "nothing there"
        raise InputError(
            f"config.data.raw_dir={raw_dir}: found {found}, expected the folder of {spec.name} "
            f"({spec.source})"
        )
    if not any(raw_dir.iterdir()):
        raise InputError(
            f"config.data.raw_dir={raw_dir}: the folder is empty, expected {spec.name} "
            f"({spec.source})"
        )


def no_such_set(spec: DatasetSpec, raw_dir: Path, expected: str) -> InputError:
    """The error for a folder that holds something else."""
    found = ", ".join(sorted(path.name for path in raw_dir.iterdir())[:5])
    return InputError(
        f"config.data.raw_dir={raw_dir}: found {found}, expected {expected} of {spec.name} "
        f"({spec.source})"
    )


def files_by_stem(
    folder: Path, suffixes: tuple[str, ...], ending: str = "", report: Report = refuse
) -> dict[str, Path]:
    """The files of `folder` with one of the suffixes (any case), by stem; hidden ones left out.

    Args:
      folder: where to look; folders inside it are not searched.
      suffixes: with their dots, lower case.
      ending: only stems that end so, and it does not belong to the key.
      report: told of empty files (which are among those returned nevertheless), of files that
        cannot be read, and of those that share their stem with another.

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
    images: dict[str, Path],
    labels: dict[str, Path],
    where: str,
    endings: tuple[str, str] = (".*", ".*"),
    report: Report = refuse,
) -> list[Pair]:
    """Images and labels of the same stem, sorted by stem.

    Args:
      images: stem -> image file.
      labels: stem -> label file.
      where: the folders in words, for a message.
      endings: what follows the stem in the names of images and of labels, for a message.
      report: told of the files of one side that the other lacks, or that there are none at all.
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
    return [Pair(stem, images[stem], labels[stem]) for stem in sorted(images.keys() & labels)]


def pairs_of_folders(
    spec: DatasetSpec,
    raw_dir: Path,
    folders: Mapping[str, tuple[Path, Path]],
    report: Report = refuse,
) -> dict[str, list[Pair]]:
    """The pairs of whichever splits exist, where each has a folder of images and one of labels.

    Args:
      spec: of the data set.
      raw_dir: as the person gave it.
      folders: split -> (folder of images, folder of labels).
      report: told of whatever is wrong with the files of a split.

    Raises:
      InputError: no split exists; by `refuse`, the first problem.
    """
    check_folder(spec, raw_dir)
    pairs = {}
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


def progress(items: Collection, what: str) -> Iterable:
    """The items, with a bar and an ETA on a terminal, with a line now and then in a file."""
    if sys.stderr.isatty():
        yield from tqdm.tqdm(items, desc=what, leave=False)
        return
    start = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - told > 10:
            told = now
            left = (now - start) / done * (len(items) - done)
            print(f"{what}: {done}/{len(items)}, {left:.0f} s left", file=sys.stderr, flush=True)
        yield item
    seconds = time.monotonic() - start
    print(f"{what}: {len(items)} in {seconds:.1f} s", file=sys.stderr, flush=True)
