"""The TFDS builders of data sets, as far as they are the same for all."""

import abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data.builders import finding
from collabseg_jax.data.spec import DatasetSpec


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
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.Pair]]:
        """The pairs of every split that `raw_dir` has, sorted by name.

        Args:
          raw_dir: as the person gave it.
          report: told of every file that is missing, alone, double or empty. If it returns, the
            other pairs are found nevertheless (those with an empty file too).

        Raises:
          InputError: nothing looks like this data set; by `finding.refuse`, the first problem.
        """

    @classmethod
    def find_spec(cls, raw_dir: Path, report: finding.Report = finding.refuse) -> DatasetSpec:
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
    def records(cls, pairs: Mapping[str, list[finding.Pair]]) -> dict[str, Sequence[dict]]:
        """What a copy holds of these pairs: {split: {"image", "label": bytes, "name": str}, ...}"""
        return {split: Lazily(_read, members) for split, members in pairs.items()}


def _read(pair: finding.Pair) -> dict:
    return {
        "image": pair.image.read_bytes(),
        "label": pair.label.read_bytes(),
        "name": pair.name,
    }
