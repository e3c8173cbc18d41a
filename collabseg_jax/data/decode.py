"""Encoded images and records to uint8 arrays."""

import cv2
import numpy as np

from collabseg_jax.data.encoded import (
    decode_cv2,
    is_whole,
    load_pixels,
    open_header,
    orientation,
    upright,
)
from collabseg_jax.data.label_files import decode_label
from collabseg_jax.data.source import Record, Size
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError


def decode_image(data: bytes, name: str = "image") -> np.ndarray:
    """Decodes an image of any common format.

    EXIF orientation is applied; grey is repeated, CMYK converted, an alpha channel dropped.

    Args:
      data: an encoded image (JPEG, PNG, ...).
      name: what to call it in a message.

    Returns:
      uint8 [H, W, 3] RGB.

    Raises:
      InputError: damaged, cut short, not an image, or 16-bit or float grey.

    Example:
      >>> import cv2, numpy as np
      >>> from collabseg_jax.data.decode import decode_image
      >>> decode_image(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()).shape
      (4, 6, 3)
    """
    header = open_header(data, name)
    image = None
    if header.mode in ("RGB", "L") and is_whole(data, header.format):
        image = decode_cv2(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        if header.mode.startswith(("I", "F")):
            raise InputError(
                f"{name}: image of 16 or more bits per pixel (PIL mode {header.mode}), expected "
                "8 bits per channel"
            )
        image = np.array(load_pixels(header, name).convert("RGB"))
    return upright(image, header)


def decode_record(record: Record, spec: DatasetSpec) -> dict[str, np.ndarray]:
    """Decodes the image and the label of a record.

    Args:
      record: see `Record`.
      spec: of the data set.

    Returns:
      {"image": uint8 [H, W, 3], "label": uint8 [H, W]}.

    Raises:
      InputError: either cannot be decoded, or their sizes differ.
    """
    name = record["name"]
    image = decode_image(record["image"], f"{spec.name} {name} (image)")
    label = decode_label(record["label"], spec, f"{spec.name} {name} (label)")
    check_sizes(image, label, f"{spec.name} {name}")
    return {"image": image, "label": label}


def check_sizes(image: np.ndarray, label: np.ndarray, name: str) -> None:
    """Raises InputError unless an image [H, W, 3] and its label [H, W] have the same size."""
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{name}: image is {_size(image)} and label is {_size(label)} pixels "
            "(width x height), expected the same"
        )


def image_size(data: bytes, name: str = "image") -> Size:
    """The (height, width) of what `decode_image` returns, from the header alone."""
    header = open_header(data, name)
    width, height = header.size
    return (width, height) if orientation(header) >= 5 else (height, width)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
