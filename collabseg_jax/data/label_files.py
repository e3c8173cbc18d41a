"""Encoded labels to train ids; the only place where label values become train ids."""

import functools

import cv2
import numpy as np
import PIL.Image

from collabseg_jax.data.encoded import decode_cv2, is_whole, load_pixels, open_header, upright
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.errors import InputError

_BIT_DEPTH = 24  # its place in a PNG, whose IHDR chunk always comes first
# PIL spreads the indices of grey PNGs of few bits over 0..255.
_GREY_STEP = {1: 1, 2: 85, 4: 17}


def decode_label(data: bytes, spec: DatasetSpec, name: str = "label") -> np.ndarray:
    """Decodes a label PNG to train ids; EXIF orientation is applied, as to its image.

    Args:
      data: a PNG of class indices: grey of 1 to 16 bits, or palette (indices, not colours). If the
        spec has `label_colors`, also a PNG of colours: RGB, or RGBA that is opaque everywhere.
      spec: which values and colours may occur, and their train ids.
      name: what to call it in a message.

    Returns:
      uint8 [H, W], 0..num_classes - 1 or 255.

    Raises:
      InputError: damaged, not such a PNG, or with a value or colour that the spec does not have.

    Example:
      >>> import cv2, numpy as np
      >>> from collabseg_jax import data
      >>> from collabseg_jax.data.label_files import decode_label
      >>> png = cv2.imencode(".png", np.array([[0, 10, 11]], np.uint8))[1].tobytes()
      >>> decode_label(png, data.get_spec("camvid")).tolist()  # CamVid's 11 is void
      [[0, 10, 255]]
    """
    header = open_header(data, name)
    if header.format != "PNG":
        raise InputError(f"{name}: label is a {header.format} file, expected PNG (lossless)")
    if header.mode in ("RGB", "RGBA") and spec.label_colors:
        if data[_BIT_DEPTH] != 8:
            raise InputError(f"{name}: label of 16 bits per channel, expected 8")
        return _ids_of_colors(upright(_decode_colors(data, header, name), header), spec, name)
    if header.mode not in ("L", "P", "1") and not header.mode.startswith("I"):
        raise InputError(
            f"{name}: label has channels {header.mode}, expected one channel of class indices; "
            f"for labels in RGB, every class of {spec.name} needs a colour ({spec.source})"
        )
    return _ids_of_values(upright(_decode_values(data, header, name), header), spec, name)


def _ids_of_values(raw: np.ndarray, spec: DatasetSpec, name: str) -> np.ndarray:
    """Train ids uint8 [H, W] of class indices [H, W], uint8 or wider."""
    if raw.dtype == np.uint8:
        forbidden = cv2.LUT(raw, (~spec.label_allowed).astype(np.uint8))
        bad = cv2.countNonZero(forbidden) > 0
    else:
        forbidden = (raw > 255) | ~spec.label_allowed[np.minimum(raw, 255)]
        bad = bool(forbidden.any())
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
    where = f"{name}: label colour {(red, green, blue)} at row {y}, column {x}"
    if alpha < 255:
        raise InputError(f"{where} has alpha {alpha}; expected 255 (opaque) everywhere")
    listed = list(spec.label_colors)
    nearest = listed[np.abs(np.subtract(listed, (red, green, blue))).sum(axis=1).argmin()]
    raise InputError(
        f"{where}; expected for {spec.name} one of its {len(listed)} colours, of which {nearest} "
        "is the nearest"
    )


@functools.lru_cache(maxsize=2)
def _color_table(spec: DatasetSpec) -> np.ndarray:
    """0xRRGGBB -> train id or 255, -1 where the colour may not occur; int16 [2**24]."""
    # Not an attribute of the spec, which is pickled for each worker: this is 32 MB.
    table = np.full(2**24, -1, np.int16)
    for (red, green, blue), train_id in spec.label_colors.items():
        table[red << 16 | green << 8 | blue] = train_id
    return table


def _decode_values(data: bytes, header: PIL.Image.Image, name: str) -> np.ndarray:
    """Class indices as stored, [H, W] uint8 or wider."""
    bits = data[_BIT_DEPTH]
    if header.mode == "L" and bits == 8 and is_whole(data, "PNG"):
        label = decode_cv2(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        if label is not None:
            return label
    label = np.asarray(load_pixels(header, name))
    if label.dtype == bool:
        label = label.astype(np.uint8)
    return label // _GREY_STEP[bits] if header.mode == "L" and bits < 8 else label


def _decode_colors(data: bytes, header: PIL.Image.Image, name: str) -> np.ndarray:
    """Colours as stored, uint8 [H, W, 4] BGRA; an RGB file is opaque."""
    label = decode_cv2(data, cv2.IMREAD_UNCHANGED) if is_whole(data, "PNG") else None
    if label is None:
        label = np.asarray(load_pixels(header, name).convert("RGBA"))
        return cv2.cvtColor(label, cv2.COLOR_RGBA2BGRA)
    return label if label.shape[2] == 4 else cv2.cvtColor(label, cv2.COLOR_BGR2BGRA)


def _ranges(values: np.ndarray) -> str:
    """[0, 1, 2, 255] -> "0-2, 255"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
