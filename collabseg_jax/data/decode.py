"""Encoded bytes to uint8 arrays; the only place where label values become train ids."""

import functools
import io
import warnings
from collections.abc import Mapping

import cv2
import numpy as np
import PIL.Image

from collabseg_jax.data.spec import DatasetSpec
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
_BIT_DEPTH = 24  # its place in a PNG, whose IHDR chunk always comes first
_END = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# PIL spreads the indices of grey PNGs of few bits over 0..255.
_GREY_STEP = {1: 1, 2: 85, 4: 17}


def decode_image(data: bytes, name: str = "image") -> np.ndarray:
    """Decodes an image of any common kind.

    EXIF orientation is applied; grey is repeated, CMYK converted, an alpha channel dropped.

    Args:
      data: an encoded image (JPEG, PNG, ...).
      name: what to call it in a message.

    Returns:
      uint8 [H, W, 3] RGB.

    Raises:
      InputError: damaged, cut short, not an image, or 16-bit or float grey.
    """
    header = _open(data, name)
    image = None
    if header.mode in ("RGB", "L") and _whole(data, header.format):
        image = _cv2(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        if header.mode.startswith(("I", "F")):
            raise InputError(
                f"{name}: image of 16 or more bits per pixel (PIL mode {header.mode}), expected "
                "8 bits per channel"
            )
        image = np.array(_load(header, name).convert("RGB"))
    return _upright(image, header)


def decode_label(data: bytes, spec: DatasetSpec, name: str = "label") -> np.ndarray:
    """Decodes a label PNG to train ids; EXIF orientation is applied, as to its image.

    Args:
      data: a PNG of class indices: grey of 1 to 16 bits, or palette (indices, not colours). If the
        spec has `label_colors`, also one of colours: RGB, or RGBA that is opaque everywhere.
      spec: which values and colours may occur, and their train ids.
      name: what to call it in a message.

    Returns:
      uint8 [H, W], 0..num_classes - 1 or 255.

    Raises:
      InputError: damaged, not such a PNG, or with a value or colour that the spec does not have.
    """
    header = _open(data, name)
    if header.format != "PNG":
        raise InputError(f"{name}: label is a {header.format} file, expected PNG (lossless)")
    if header.mode in ("RGB", "RGBA") and spec.label_colors:
        if data[_BIT_DEPTH] != 8:
            raise InputError(f"{name}: label of 16 bits per channel, expected 8")
        return _ids_of_colors(_upright(_decode_colors(data, header, name), header), spec, name)
    if header.mode not in ("L", "P", "1") and not header.mode.startswith("I"):
        raise InputError(
            f"{name}: label has channels {header.mode}, expected one channel of class indices; "
            f"for labels in RGB, every class of {spec.name} needs a colour ({spec.source})"
        )
    return _ids_of_values(_upright(_decode_values(data, header, name), header), spec, name)


def _ids_of_values(raw: np.ndarray, spec: DatasetSpec, name: str) -> np.ndarray:
    """Train ids uint8 [H, W] of class indices [H, W], uint8 or wider."""
    if raw.dtype == np.uint8:
        forbidden = cv2.LUT(raw, (~spec.label_allowed).astype(np.uint8))
        bad = cv2.countNonZero(forbidden) > 0
    else:
        forbidden = (raw > 255) | ~spec.label_allowed[np.minimum(raw, 255)]
        bad = forbidden.any()
    if bad:
        y, x = np.unravel_index(forbidden.argmax(), raw.shape)
        raise InputError(
            f"{name}: label value {raw[y, x]} at row {y}, column {x}; expected for {spec.name}: "
            f"{_ranges(np.flatnonzero(spec.label_allowed))}"
        )
    return cv2.LUT(raw.astype(np.uint8, copy=False), spec.label_lut)


def _ids_of_colors(pixels: np.ndarray, spec: DatasetSpec, name: str) -> np.ndarray:
    """Train ids uint8 [H, W] of colours uint8 [H, W, 4] BGRA."""
    packed = pixels.view("<u4")[..., 0]  # 0xAARRGGBB
    ids = _color_table(spec).take(packed & 0xFFFFFF)
    if ids.min() >= 0 and packed.min() >= 0xFF000000:
        return ids.astype(np.uint8)
    bad = (ids < 0) | (packed < 0xFF000000)
    y, x = np.unravel_index(bad.argmax(), bad.shape)
    blue, green, red, alpha = pixels[y, x].tolist()
    found = f"{name}: label colour {(red, green, blue)} at row {y}, column {x}"
    if alpha < 255:
        raise InputError(f"{found} has alpha {alpha}; expected 255 (opaque) everywhere")
    listed = list(spec.label_colors)
    nearest = listed[np.abs(np.subtract(listed, (red, green, blue))).sum(axis=1).argmin()]
    raise InputError(
        f"{found}; expected for {spec.name} one of its {len(listed)} colours, of which {nearest} "
        "is the nearest"
    )


@functools.lru_cache(maxsize=2)
def _color_table(spec: DatasetSpec) -> np.ndarray:
    """0xRRGGBB -> train id or 255, -1 where the colour may not occur; int16 [2**24]."""
    # Not an attribute of the spec: that is pickled for each worker, without these 32 MB.
    table = np.full(2**24, -1, np.int16)
    for (red, green, blue), train_id in spec.label_colors.items():
        table[red << 16 | green << 8 | blue] = train_id
    return table


def decode_record(record: Mapping, spec: DatasetSpec) -> dict[str, np.ndarray]:
    """Decodes a record {"image": bytes, "label": bytes, "name": str}.

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
    """InputError unless the image [H, W, 3] and the label [H, W] of a pair have one size."""
    if image.shape[:2] != label.shape:
        raise InputError(
            f"{name}: image is {_size(image)} and label is {_size(label)} pixels "
            "(width x height), expected the same"
        )


def image_size(data: bytes, name: str = "image") -> tuple[int, int]:
    """The (height, width) that `decode_image` would give, from the header alone."""
    header = _open(data, name)
    width, height = header.size
    return (width, height) if _orientation(header) >= 5 else (height, width)


def _decode_values(data: bytes, header: PIL.Image.Image, name: str) -> np.ndarray:
    """Class indices as stored, [H, W] uint8 or wider."""
    bits = data[_BIT_DEPTH]
    if header.mode == "L" and bits == 8 and _whole(data, "PNG"):
        label = _cv2(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        if label is not None:
            return label
    label = np.asarray(_load(header, name))
    if label.dtype == bool:
        label = label.astype(np.uint8)
    return label // _GREY_STEP[bits] if header.mode == "L" and bits < 8 else label


def _decode_colors(data: bytes, header: PIL.Image.Image, name: str) -> np.ndarray:
    """Colours as stored, uint8 [H, W, 4] BGRA; an RGB file is opaque."""
    label = _cv2(data, cv2.IMREAD_UNCHANGED) if _whole(data, "PNG") else None
    if label is None:
        label = np.asarray(_load(header, name).convert("RGBA"))
        return cv2.cvtColor(label, cv2.COLOR_RGBA2BGRA)
    return label if label.shape[2] == 4 else cv2.cvtColor(label, cv2.COLOR_BGR2BGRA)


def _open(data: bytes, name: str) -> PIL.Image.Image:
    """Reads the header only."""
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


def _load(header: PIL.Image.Image, name: str) -> PIL.Image.Image:
    try:
        header.load()
    except Exception as error:
        raise InputError(
            f"{name}: damaged {header.format} file ({error}), expected a whole one"
        ) from None
    return header


def _cv2(data: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None  # PIL, tried next, says what is wrong


def _whole(data: bytes, file_format: str | None) -> bool:
    """Whether the file ends as it should: cv2 fills up a cut one with grey, PIL refuses it."""
    end = _END.get(file_format)
    return end is not None and data.endswith(end)


def _upright(pixels: np.ndarray, header: PIL.Image.Image) -> np.ndarray:
    """Pixels [H, W, ...] as stored, turned as the file's EXIF orientation says."""
    flip, rotate = _FLIP_THEN_ROTATE.get(_orientation(header), (None, None))
    if flip is not None:
        pixels = cv2.flip(pixels, flip)
    return pixels if rotate is None else cv2.rotate(pixels, rotate)


def _orientation(header: PIL.Image.Image) -> int:
    # Not header.getexif(): for a PNG it decodes the whole image.
    if "exif" not in header.info:
        return 1
    exif = PIL.Image.Exif()
    try:
        exif.load(header.info["exif"])
        return int(exif.get(0x0112, 1))
    except Exception:
        return 1  # a damaged EXIF block says nothing; viewers ignore it too


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


def _ranges(values: np.ndarray) -> str:
    """[0, 1, 2, 255] -> "0-2, 255"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
