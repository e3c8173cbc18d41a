"""Cityscapes with its 19 classes, fine annotations."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base, finding
from collabseg_jax.data.source import RandomAccess, Record
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError
from collabseg_jax.labels import IGNORE

# Of cityscapesScripts (helpers/labels.py); the position is the train id: (name, id, colour).
_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

SPEC = DatasetSpec(
    name="cityscapes",
    classes=tuple(name for name, _, _ in _CLASSES),
    palette=tuple(colour for _, _, colour in _CLASSES),
    splits=("train", "val"),
    # 255 is the license plate's -1, as 8 bits hold it.
    label_values={
        **dict.fromkeys((*range(34), 255), IGNORE),
        **{label_id: train_id for train_id, (_, label_id, _) in enumerate(_CLASSES)},
    },
    official_values=tuple(label_id for _, label_id, _ in _CLASSES),
    source="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of "
    "https://www.cityscapes-dataset.com (free registration), "
    "with leftImg8bit/{train,val}/CITY and gtFine/{train,val}/CITY",
    licence="non-commercial use, no redistribution; see https://www.cityscapes-dataset.com/license",
)
# How label files may be encoded, the preferred one first.
ENCODINGS = {
    "labelTrainIds": dataclasses.replace(SPEC, label_values={}),
    "labelIds": SPEC,
}
_IMAGE_ENDING = "_leftImg8bit"


class Cityscapes(base.PairBuilder):
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

    Labels are read from `*_gtFine_labelTrainIds.png`, which cityscapesScripts makes, where every
    image has one. The test split has no public labels and is left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SPEC = SPEC
    name = SPEC.name

    @classmethod
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.LabelledImage]]:
        """The pairs of all splits that exist, all labels in one encoding; see the base class."""
        finding.check_folder(SPEC, raw_dir)
        pairs: dict[str, list[finding.LabelledImage]] = {}
        images: dict[str, dict[str, Path]] = {}  # by split
        labels: dict[str, dict[str, dict[str, Path]]] = {kind: {} for kind in ENCODINGS}
        for split in SPEC.splits:
            image_dir, label_dir = raw_dir / "leftImg8bit" / split, raw_dir / "gtFine" / split
            if not (image_dir.is_dir() or label_dir.is_dir()):
                continue
            pairs[split] = []
            with finding.reporting(report):
                for encoding in ENCODINGS:
                    ending = f"_gtFine_{encoding}"
                    labels[encoding][split] = _files_of_cities(label_dir, ending, report)
                images[split] = _files_of_cities(image_dir, _IMAGE_ENDING, report)
        if not pairs:
            raise finding.no_such_set(SPEC, raw_dir, "leftImg8bit and gtFine")
        encoding = _choose(images, labels)
        [other] = ENCODINGS.keys() - {encoding}
        mixed = []
        for split, files in images.items():
            chosen, others = labels[encoding][split], labels[other][split]
            strays = sorted((files.keys() & others.keys()) - chosen.keys())
            mixed += [others[name] for name in strays]
            rest = {name: files[name] for name in files.keys() - strays}
            pairs[split] = _match(raw_dir, split, rest, chosen, encoding, report)
        if mixed:
            report(
                *(
                    f"{path}: without a *_gtFine_{encoding}.png next to it, while others have no "
                    f"*_gtFine_{other}.png, expected one of the two kinds for all images"
                    for path in mixed
                )
            )
        return pairs

    @classmethod
    def find_spec(cls, raw_dir: Path, report: finding.Report = finding.refuse) -> DatasetSpec:
        """The spec of the encoding that `find_pairs` chooses; see the base class."""
        return ENCODINGS[_encoding(cls.find_pairs(raw_dir, report))]

    @classmethod
    def records(
        cls, pairs: Mapping[str, Sequence[finding.LabelledImage]]
    ) -> dict[str, RandomAccess[Record]]:
        """Prints which label files were chosen; see the base class."""
        text = f"{cls.name}: labels are *_gtFine_{_encoding(pairs)}.png"
        print(text, file=sys.stderr, flush=True)
        return super().records(pairs)


def _encoding(pairs: Mapping[str, Sequence[finding.LabelledImage]]) -> str:
    """The encoding, which is the same for all labels."""
    labels = (pair.label.stem.rpartition("_")[2] for split in pairs.values() for pair in split)
    return next(labels, "labelIds")


def _files_of_cities(folder: Path, ending: str, report: finding.Report) -> dict[str, Path]:
    """The PNG files with an ending in all folders of `folder`; names begin with the city."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected a folder for each city in it")
    files: dict[str, Path] = {}
    for city in sorted(folder.iterdir()):
        if city.is_dir():
            files |= finding.files_by_stem(city, finding.LABEL_SUFFIXES, ending, report)
    return files


def _choose(
    images: Mapping[str, Mapping[str, Path]], labels: Mapping[str, Mapping[str, Mapping[str, Path]]]
) -> str:
    """The encoding that most images have, the preferred one at a tie.

    Args:
      images: {split: {name: file}}.
      labels: {encoding: {split: {name: file}}}.
    """

    def count(encoding: str) -> int:
        return sum(len(files.keys() & labels[encoding][s].keys()) for s, files in images.items())

    return max(ENCODINGS, key=count)


def _match(
    raw_dir: Path,
    split: str,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    encoding: str,
    report: finding.Report,
) -> list[finding.LabelledImage]:
    return finding.match_pairs(
        images,
        labels,
        where=f"{raw_dir / 'leftImg8bit' / split} and {raw_dir / 'gtFine' / split}",
        endings=(f"{_IMAGE_ENDING}.png", f"_gtFine_{encoding}.png"),
        report=report,
    )
