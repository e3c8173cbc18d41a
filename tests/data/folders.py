"""A miniature of somebody's own folder: every kind of image and label that may stand in one."""

import io
from pathlib import Path

import numpy as np
import PIL.Image

from collabseg_jax.labels import IGNORE

from . import trees

CLASSES = """\
# what is what
road 128 64 128

tall tree 0 128 0
car 64 0 128
ignore 0 0 0
ignore 9
"""
NAMES = ("road", "tall tree", "car")

# Four quarters as a label file holds them, and the train ids that they stand for.
INDICES = [[0, 1], [2, 9]], [[0, 1], [2, IGNORE]]
IGNORED = [[255, 2], [1, 0]], [[IGNORE, 2], [1, 0]]
COLORS = (
    [[(64, 0, 128), (0, 0, 0)], [(128, 64, 128), (0, 128, 0)]],
    [[2, IGNORE], [0, 1]],
)


def enlarge(quarters, size) -> np.ndarray:
    """[2, 2, ...] -> uint8 [h, w, ...]; both sides of `size` are even."""
    array = np.asarray(quarters, np.uint8)
    return array.repeat(size[0] // 2, axis=0).repeat(size[1] // 2, axis=1)


def palette_png(indices: np.ndarray) -> bytes:
    """A palette PNG whose colours say nothing of the classes."""
    image = PIL.Image.fromarray(indices, "P")
    image.putpalette([value for i in range(256) for value in (255 - i, i, 77)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rgba_png(colors: np.ndarray) -> bytes:
    """An opaque RGBA PNG."""
    return trees.encode(colors, mode="RGBA")


def png_16_bit(indices: np.ndarray) -> bytes:
    """A grey PNG of 16 bits that holds small values."""
    return trees.encode(indices.astype(np.uint16))


def rotated_jpeg(upright: np.ndarray) -> bytes:
    """A photo as a camera on its side stores it, with the EXIF orientation that undoes it."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    return trees.encode(np.rot90(upright).copy(), "JPEG", exif=exif, quality=95)


def cmyk_jpeg(pixels: np.ndarray) -> bytes:
    """A JPEG as print shops have them."""
    return trees.encode(pixels, "JPEG", "CMYK", quality=95)


def as_file(file_format: str):
    """A function that encodes an image so."""
    return lambda pixels: trees.encode(pixels, file_format)


# Record: (height, width), suffix of the image, its encoder, what the label says, its encoder.
RECORDS = {
    "train/16bit": ((50, 36), ".png", as_file("PNG"), IGNORED, png_16_bit),
    "train/8bit": ((36, 50), ".JPG", as_file("JPEG"), INDICES, trees.encode),
    "train/cmyk": ((32, 40), ".jpg", cmyk_jpeg, IGNORED, palette_png),
    "train/day 1/8bit": ((40, 40), ".webp", as_file("WEBP"), INDICES, palette_png),
    "train/day 1/rgb": ((64, 36), ".tif", as_file("TIFF"), COLORS, trees.encode),
    "train/rgba": ((36, 36), ".bmp", as_file("BMP"), COLORS, rgba_png),
    "train/rotated": ((60, 40), ".jpeg", rotated_jpeg, COLORS, trees.encode),
    "val/a": ((40, 50), ".jpg", as_file("JPEG"), INDICES, trees.encode),
    "val/b": ((34, 60), ".png", as_file("PNG"), COLORS, rgba_png),
}


def folder(root: Path, classes: str = CLASSES) -> Path:
    """The tree with all of `RECORDS`."""
    for seed, (name, (size, suffix, image, (stored, _), label)) in enumerate(RECORDS.items()):
        for kind in ("images", "labels"):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / f"{name}{suffix}").write_bytes(image(trees.picture(seed, size)))
        (root / "labels" / f"{name}.png").write_bytes(label(enlarge(stored, size)))
    (root / "classes.txt").write_text(classes)
    return root
