"""Encoded images as files hold them: header, pixels as stored, EXIF orientation."""

import io
import warnings

import cv2
import numpy as np
import PIL.Image

from collabseg_jax.errors import InputError

# EXIF orientation -> what undoes it: a cv2.flip code (None: no flip), then a cv2.rotate code.
_FLIP_THEN_ROTATE = {
    2: (1, None),
    3: (None, cv2.ROTATE_180),
    4: (0, None),
    5: (1, cv2.ROTATE_90_COUNTERCLOCKWISE),
    6: (None, cv2.ROTATE_90_CLOCKWISE),
    7: (1, cv2.ROTATE_90_CLOCKWISE),
    8: (None, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_END = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def open_header(data: bytes, name: str) -> PIL.Image.Image:
    """The image in an encoded file, of which only the header is read.

    Args:
      data: the whole file.
      name: what to call it in a message.

    Raises:
      InputError: it is not a readable image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            return PIL.Image.open(io.BytesIO(data))
    except Exception as error:
        start = data[:8]
        raise InputError(
            f"{name}: not a readable image ({len(data)} bytes, starting with {start!r}), expected "
            f"JPEG or PNG [{type(error).__name__}]"
        ) from None


def load_pixels(header: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Reads the pixels of an image by PIL, in place; InputError if the file is damaged."""
    try:
        header.load()
    except Exception as error:
        raise InputError(
            f"{name}: damaged {header.format} file ({error}), expected a whole one"
        ) from None
    return header


def decode_cv2(data: bytes, flags: int) -> np.ndarray | None:
    """The pixels as OpenCV decodes them with these cv2.IMREAD_* flags; None if it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None  # PIL, tried next, says what is wrong


def is_whole(data: bytes, file_format: str | None) -> bool:
    """Whether the file ends as it should: cv2 pads a cut one with grey, PIL refuses it."""
    end = _END.get(file_format or "")
    return end is not None and data.endswith(end)


def upright(pixels: np.ndarray, header: PIL.Image.Image) -> np.ndarray:
    """Pixels [H, W, ...] as stored, flipped and rotated as the file's EXIF orientation says."""
    flip, rotate = _FLIP_THEN_ROTATE.get(orientation(header), (None, None))
    if flip is not None:
        pixels = cv2.flip(pixels, flip)
    return pixels if rotate is None else cv2.rotate(pixels, rotate)


def orientation(header: PIL.Image.Image) -> int:
    """The EXIF orientation, 1..8; 1, which is upright, if there is none."""
    # Not header.getexif(): for a PNG it decodes the whole image.
    if "exif" not in header.info:
        return 1
    exif = PIL.Image.Exif()
    try:
        exif.load(header.info["exif"])
        return int(exif.get(0x0112, 1))
    except Exception:
        return 1  # viewers ignore a damaged EXIF block too
