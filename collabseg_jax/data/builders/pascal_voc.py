"""PASCAL VOC 2012 with 21 classes, and its augmented training set where that exists."""

from collections.abc import Mapping, Set
from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base, finding
from collabseg_jax.data.spec import DatasetSpec

SPEC = DatasetSpec(
    name="pascal_voc",
    classes=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
    palette=(
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
        (192, 0, 0),
        (64, 128, 0),
        (192, 128, 0),
        (64, 0, 128),
        (192, 0, 128),
        (64, 128, 128),
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    ),
    splits=("train", "val"),
    # Label files hold train ids, and 255 at the borders of objects.
    source="VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012, "
    "which is VOCdevkit/VOC2012 with JPEGImages, SegmentationClass, ImageSets/Segmentation; "
    "SegmentationClassAug next to them makes the training set 10,582 instead of 1,464 images",
    licence="for research; the images are under the terms of use of flickr",
)


class PascalVOC(base.PairBuilder):
    """`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/{train,val}.txt`.

    Where `SegmentationClassAug` exists (Hariharan et al. 2011, as index PNGs), the training split
    is that of `trainaug.txt`, or without this list all images of both folders that are not in
    `val.txt`. The label of an image in both folders is read from `SegmentationClass`, which
    ignores the borders of objects.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SPEC = SPEC
    FOLDERS = ("VOCdevkit", "VOC2012")
    name = SPEC.name

    @classmethod
    def find_pairs(
        cls, raw_dir: Path, report: finding.Report = finding.refuse
    ) -> dict[str, list[finding.LabelledImage]]:
        """The pairs of the training and validation lists; see the base class."""
        finding.check_folder(SPEC, raw_dir)
        root = cls.root(raw_dir)
        lists, augmented = root / "ImageSets" / "Segmentation", root / "SegmentationClassAug"
        if not lists.is_dir():
            raise finding.no_such_set(SPEC, raw_dir, "ImageSets/Segmentation")
        images = finding.files_by_stem(root / "JPEGImages", finding.IMAGE_SUFFIXES, report=report)
        labels = finding.files_by_stem(
            root / "SegmentationClass", finding.LABEL_SUFFIXES, report=report
        )
        val = _names(lists / "val.txt", report)
        val_pairs = _pairs(val, lists / "val.txt", images, labels, report)
        listed = lists / ("trainaug.txt" if augmented.is_dir() else "train.txt")
        if augmented.is_dir():
            more = finding.files_by_stem(augmented, finding.LABEL_SUFFIXES, report=report)
            if not more:
                report(f"{augmented}: found no labels, expected .png files in it")
            labels = more | labels
        if augmented.is_dir() and not listed.exists():
            train, listed = set(labels.keys() - val), augmented
            if not train:
                report(f"{listed}: found no images, expected some that are not in val.txt")
        else:
            train = _names(listed, report)
        return {"train": _pairs(train, listed, images, labels, report), "val": val_pairs}


def _names(path: Path, report: finding.Report) -> set[str]:
    """The images that a list names, one a line."""
    if not path.is_file():
        report(f"{path}: no such file, expected a list of images, one a line")
        return set()
    # Some lists of the augmented set have "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".
    names = {Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()}
    if not names:
        report(f"{path}: names no image, expected one a line")
    return names


def _pairs(
    names: Set[str],
    listed: Path,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    report: finding.Report,
) -> list[finding.LabelledImage]:
    """The pairs of these names, sorted; `listed` is the list or folder that names them."""
    for what, files, expected in (
        ("image", images, "JPEGImages/{}.jpg"),
        ("label", labels, "SegmentationClass/{}.png or SegmentationClassAug/{}.png"),
    ):
        if missing := sorted(names - files.keys()):
            report(
                *(
                    f"{listed}: names {name}, which has no {what}, expected "
                    f"{expected.replace('{}', name)}"
                    for name in missing
                )
            )
    whole = sorted(names & images.keys() & labels.keys())
    return [finding.LabelledImage(name, images[name], labels[name]) for name in whole]
