"""ADE20K with the 150 classes of the scene parsing benchmark (ADEChallengeData2016)."""

from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base, finding
from collabseg_jax.data.builders.ade20k_classes import CLASSES
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.labels import IGNORE

_FOLDERS = {"train": "training", "val": "validation"}

SPEC = DatasetSpec(
    name="ade20k",
    classes=tuple(name for name, _ in CLASSES),
    palette=tuple(colour for _, colour in CLASSES),
    splits=tuple(_FOLDERS),
    # 0 is "other objects", which the benchmark does not score.
    label_values={0: IGNORE, **{i: i - 1 for i in range(1, 151)}},
    official_values=tuple(range(1, 151)),
    source="ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu, "
    "with images/{training,validation} and annotations/{training,validation}",
    licence="images for non-commercial research and education, annotations BSD-3; see "
    "https://groups.csail.mit.edu/vision/datasets/ADE20K/terms",
)


class ADE20K(base.PairBuilder):
    """`images/{training,validation}/*.jpg`, `annotations/{training,validation}/*.png`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SPEC = SPEC
    FOLDERS = ("ADEChallengeData2016",)
    name = SPEC.name

    @classmethod
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.LabelledImage]]:
        """The pairs of all splits that exist; see the base class."""
        root = cls.root(raw_dir)
        folders = {
            split: (root / "images" / folder, root / "annotations" / folder)
            for split, folder in _FOLDERS.items()
        }
        return finding.pairs_of_folders(SPEC, raw_dir, folders, report)
