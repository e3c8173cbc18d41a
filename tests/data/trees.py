"""Miniature data sets in their official layouts, and encoded images, made on the spot.

The labels of `ade20k`, `cityscapes` and `pascal_voc` are `RAW` below in the files of each set, so
that a test can say by hand what must come out of every pixel.
"""

import io
from pathlib import Path

import numpy as np
import PIL.Image

from collabseg_jax.data import InMemory

# (height, width); not square, so that a swap shows.
SIZE = (24, 32)


def encode(pixels: np.ndarray, file_format: str = "PNG", mode: str | None = None, **options):
    """Bytes of an image from an array; `mode` converts first."""
    image = PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(seed: int, size=SIZE) -> np.ndarray:
    """A smooth image uint8 [h, w, 3], different for every seed."""
    rng = np.random.default_rng(seed)
    small = PIL.Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    return np.asarray(small.resize(size[::-1], PIL.Image.Resampling.BICUBIC))


def indices(seed: int, size=SIZE, count: int = 12) -> np.ndarray:
    """Class indices uint8 [h, w] in blocks, 0..count - 1."""
    small = np.random.default_rng(seed).integers(0, count, (4, 4), np.uint8)
    return np.kron(small, np.ones((-(-size[0] // 4), -(-size[1] // 4)), np.uint8))[
        : size[0], : size[1]
    ].copy()


def record(seed: int, size=SIZE) -> dict:
    """One record, as a prepared source gives it."""
    return {
        "image": encode(picture(seed, size), "JPEG", quality=95),
        "label": encode(indices(seed, size)),
        "name": f"r{seed:03d}",
    }


def records(count: int, sizes=(SIZE,)) -> InMemory:
    """Records of the sizes in turn, as a source."""
    return InMemory(record(i, sizes[i % len(sizes)]) for i in range(count))


def camvid(root: Path, sizes=None) -> Path:
    """A tree in the SegNet tutorial's layout; `sizes` is {split: images}."""
    for split, count in (sizes or {"train": 5, "val": 3}).items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for i in range(count):
            suffix, file_format = ((".png", "PNG"), (".jpg", "JPEG"), (".JPEG", "JPEG"))[i % 3]
            (root / split / f"{split}_{i:03d}{suffix}").write_bytes(encode(picture(i), file_format))
            (root / f"{split}annot" / f"{split}_{i:03d}.png").write_bytes(encode(indices(i)))
    return root


def write(path: Path, data: bytes) -> None:
    """Writes a file and makes its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def palette_png(pixels: np.ndarray) -> bytes:
    """A PNG of indices with VOC's palette, as in SegmentationClass."""
    image = PIL.Image.fromarray(pixels, "P")
    image.putpalette([bit for i in range(256) for bit in voc_colour(i)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def voc_colour(index: int) -> tuple[int, int, int]:
    """The devkit's colour map: the bits of the index, three at a time, from the highest down."""
    colour = [0, 0, 0]
    for shift in range(8):
        for channel in range(3):
            colour[channel] |= (index >> (3 * shift + channel) & 1) << (7 - shift)
    return tuple(colour)


def columns(values) -> np.ndarray:
    """A label uint8 of SIZE whose columns hold these values in turn."""
    return np.resize(np.array(values, np.uint8), SIZE[1])[None].repeat(SIZE[0], axis=0)


# What the label files hold, column by column: the values of each set that matter.
RAW = {
    "ade20k": (0, 1, 2, 75, 149, 150),
    "labelIds": (*range(26), 255),
    "labelTrainIds": (*range(19), 255),
    "pascal_voc": (0, 1, 15, 20, 255),
}


def ade20k(root: Path, sizes=None) -> Path:
    """ADEChallengeData2016; `sizes` is {folder: images}."""
    for folder, count in (sizes or {"training": 4, "validation": 2}).items():
        for i in range(count):
            name = f"ADE_{folder.removesuffix('ing').removesuffix('idation')}_{i + 1:08d}"
            write(root / "images" / folder / f"{name}.jpg", encode(picture(i), "JPEG"))
            label = encode(columns(RAW["ade20k"]))
            write(root / "annotations" / folder / f"{name}.png", label)
    return root


def cityscapes(root: Path, cities=None, kinds=("labelIds",)) -> Path:
    """leftImg8bit and gtFine with all that the archives have; `cities` is {split: {city: images}}.

    `kinds` are the encodings of labels that train and val have.
    """
    cities = cities or {
        "train": {"aachen": 2, "bochum": 2},
        "val": {"frankfurt": 2},
        "test": {"berlin": 1},
    }
    for split, images in cities.items():
        for city, count in images.items():
            for i in range(count):
                name = f"{city}_000000_{i:06d}"
                image, label = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
                write(image / f"{name}_leftImg8bit.png", encode(picture(i)))
                write(label / f"{name}_gtFine_color.png", encode(picture(i)))
                write(label / f"{name}_gtFine_instanceIds.png", encode(indices(i).astype("u2")))
                write(label / f"{name}_gtFine_polygons.json", b"{}")
                for kind in kinds if split != "test" else ["labelIds"]:
                    pixels = columns(RAW[kind] if split != "test" else [0])
                    write(label / f"{name}_gtFine_{kind}.png", encode(pixels))
    return root


def pascal_voc(root: Path, *, augmented=False, trainaug=True) -> Path:
    """VOCdevkit/VOC2012 under `root`: 3 images to train, 2 to validate, 2 more if `augmented`."""
    voc, names = root / "VOCdevkit" / "VOC2012", [f"2007_{i:06d}" for i in range(8)]
    lists = {"train": names[:3], "val": names[3:5], "trainval": names[:5]}
    for i, name in enumerate(names):  # one is in no list of this task
        write(voc / "JPEGImages" / f"{name}.jpg", encode(picture(i), "JPEG"))
        write(voc / "Annotations" / f"{name}.xml", b"<annotation/>")
    for name in lists["trainval"]:
        label = palette_png(columns(RAW["pascal_voc"]))
        write(voc / "SegmentationClass" / f"{name}.png", label)
        write(voc / "SegmentationObject" / f"{name}.png", label)
    if augmented:  # without the borders, as in the files of its authors
        for name in (*names[1:3], *names[3:4], *names[5:7]):
            label = encode(columns(RAW["pascal_voc"][:-1]))
            write(voc / "SegmentationClassAug" / f"{name}.png", label)
        if trainaug:
            lists["trainaug"] = [*names[:3], *names[5:7]]
    for name, members in lists.items():
        text = "".join(f"{member}\n" for member in members)
        write(voc / "ImageSets" / "Segmentation" / f"{name}.txt", text.encode())
    return root
