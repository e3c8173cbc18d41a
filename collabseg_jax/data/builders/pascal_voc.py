"""PASCAL VOC 2012 with 21 classes, with the augmented training set where it is there."""

from collections.abc import Mapping, Set
from pathlib import Path

import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError

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
    # Files hold train ids, and 255 along the borders of objects.
    source="VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012, "
    "which is VOCdevkit/VOC2012 with JPEGImages, SegmentationClass, ImageSets/Segmentation; "
    "SegmentationClassAug beside them makes the training set 10,582 instead of 1,464 images",
    licence="for research; the images are under the terms of use of flickr",
)


class PascalVOC(base.PairBuilder):
    """`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation/{train,val}.txt`.

    Where `SegmentationClassAug` exists (Hariharan et al. 2011, as index PNGs), the training split
    is that of `trainaug.txt`, or without this list all images of both folders that are not in
    `val.txt`. An image that both folders label is read from `SegmentationClass`: its labels leave
    out the borders of objects.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    SPEC = SPEC
    FOLDERS = ("VOCdevkit", "VOC2012")
    name = SPEC.name

    @classmethod
    def find_pairs(cls, raw_dir: Path) -> dict[str, list[base.Pair]]:
        """The pairs of the training and validation lists; see the base class."""
        base.check_folder(SPEC, raw_dir)
        root = cls.root(raw_dir)
        lists, augmented = root / "ImageSets" / "Segmentation", root / "SegmentationClassAug"
        if not lists.is_dir():
            raise base.no_such_set(SPEC, raw_dir, "ImageSets/Segmentation")
        images = base.files_by_stem(root / "JPEGImages", base.IMAGE_SUFFIXES)
        labels = base.files_by_stem(root / "SegmentationClass", base.LABEL_SUFFIXES)
        val = _names(lists / "val.txt")
        splits = {"val": _pairs(val, lists / "val.txt", images, labels)}
        if not augmented.is_dir():
            train = _names(lists / "train.txt")
            return {"train": _pairs(train, lists / "train.txt", images, labels), **splits}
        more = base.files_by_stem(augmented, base.LABEL_SUFFIXES)
        if not more:
            raise InputError(f"{augmented}: found no labels, expected .png files in it")
        labels = more | labels
        if (lists / "trainaug.txt").exists():
            listed = lists / "trainaug.txt"
            train = _names(listed)
        else:
            listed = augmented
            train = labels.keys() - val
        return {"train": _pairs(train, listed, images, labels), **splits}


def _names(path: Path) -> set[str]:
    """The images that a list names, one a line."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a list of images, one a line")
    # Some lists of the augmented set have "/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png".
    names = {Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()}
    if not names:
        raise InputError(f"{path}: names no image, expected one a line")
    return names


def _pairs(
    names: Set[str], listed: Path, images: Mapping[str, Path], labels: Mapping[str, Path]
) -> list[base.Pair]:
    """The pairs of these names, sorted; `listed` is the list or folder that names them."""
    for what, files, expected in (
        ("image", images, "JPEGImages/{}.jpg"),
        ("label", labels, "SegmentationClass/{}.png or SegmentationClassAug/{}.png"),
    ):
        if missing := sorted(names - files.keys()):
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise InputError(
                f"{listed}: names {missing[0]}, which has no {what}{more}, expected "
                f"{expected.replace('{}', missing[0])}"
            )
    if not names:
        raise InputError(f"{listed}: found no images, expected some that are not in val.txt")
    return [base.Pair(name, images[name], labels[name]) for name in sorted(names)]
