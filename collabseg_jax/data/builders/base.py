"""What the TFDS builders of all data sets have in common."""

import abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data import places
from collabseg_jax.data.builders import finding
from collabseg_jax.data.source import RandomAccess, Record
from collabseg_jax.data.spec import DatasetSpec

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class LazyRecords(Generic[T]):
    """The record of each item, made at the time it is asked for."""

    make: Callable[[T], Record]
    items: Sequence[T]

    def __len__(self) -> int:
        """How many."""
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        """Makes a record; nothing is remembered."""
        return self.make(self.items[index])


class RecordBuilder(tfds.core.dataset_builder.FileReaderBuilder):
    """A TFDS builder that reads; `collabseg_jax.data.prepare` writes what it reads."""

    VERSION: tfds.core.Version

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        # TFDS's own method restarts after a kill, holds a split in memory, and reads nothing back.
        raise NotImplementedError("collabseg_jax.data.prepare makes the copies of this data set")


class PairBuilder(RecordBuilder):
    """A builder over files: a subclass defines VERSION, SPEC, `name` and `find_pairs`.

    If the raw files describe what their labels mean, it overrides `find_spec` too, and EXTRA_FILES
    if files other than images and labels describe it.

    The config name is the fingerprint of the raw files, so that every raw tree has a prepared copy
    of its own. A copy stores the bytes of the files, in the order of `find_pairs`, and its spec.
    """

    SPEC: DatasetSpec
    # Folders that archives have around the data: raw_dir may be the parent of one.
    FOLDERS: tuple[str, ...] = ()
    # Paths in `root` of files other than images and labels that change the data set.
    EXTRA_FILES: tuple[str, ...] = ()

    def __init__(self, *, raw_dir: str | Path = "", spec: DatasetSpec | None = None, **kwargs: Any):
        """Takes `raw_dir` and `spec`, noted in a new copy, and what every TFDS builder takes."""
        self._raw_dir, self._spec = raw_dir, spec or self.SPEC
        super().__init__(**kwargs)

    @classmethod
    def root(cls, raw_dir: Path) -> Path:
        """The folder where the official layout begins: `raw_dir`, or one of FOLDERS inside it."""
        for name in cls.FOLDERS:
            raw_dir = raw_dir / name if (raw_dir / name).is_dir() else raw_dir
        return raw_dir

    @classmethod
    @abc.abstractmethod
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.LabelledImage]]:
        """The pairs of every split that `raw_dir` has, sorted by name.

        Args:
          raw_dir: as the user gave it.
          report: called for every file that is missing, without its other half, duplicate or
            empty. If it returns, the result has all other pairs (also those with an empty file).

        Raises:
          InputError: nothing looks like this data set; by `finding.refuse`, the first problem.
        """

    @classmethod
    def find_spec(cls, raw_dir: Path, report: finding.Report = finding.refuse) -> DatasetSpec:
        """The spec of a raw tree: SPEC, completed by what the files describe.

        Args:
          raw_dir: as the user gave it.
          report: as for `find_pairs`, for specs that depend on the pairs.

        Raises:
          InputError: the files do not describe it, or contradict each other.
        """
        return cls.SPEC

    @classmethod
    def get_builder_config(cls, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """Any fingerprint is a config; TFDS would warn about a custom one."""
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
    def records(
        cls, pairs: Mapping[str, Sequence[finding.LabelledImage]]
    ) -> dict[str, RandomAccess[Record]]:
        """What a copy of these pairs holds in every split."""
        return {split: LazyRecords(_read, members) for split, members in pairs.items()}


def _read(pair: finding.LabelledImage) -> Record:
    with places.reaching():
        return {
            "image": pair.image.read_bytes(),
            "label": pair.label.read_bytes(),
            "name": pair.name,
        }
