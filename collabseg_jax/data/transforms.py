"""Geometry on the host: uint8 in, uint8 of a fixed shape out, image and label always together."""

import cv2
import numpy as np

from collabseg_jax.data.source import Size
from collabseg_jax.labels import IGNORE

FILL = (124, 116, 104)  # ImageNet's mean colour: close to 0 once normalised
MIN_SIDE = 32  # in pixels, of what a student sees: SegFormer reduces 8 x 8 cells of stride 4
_CROP_TRIES = 10


def random_scale_crop_flip(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: Size,
    scale_range: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    cat_max_ratio: float = 0.75,
) -> tuple[np.ndarray, np.ndarray]:
    """Scales at random, cuts out a random crop, mirrors half of the time.

    An image smaller than the crop is placed at random inside it; around it, the image is ImageNet's
    mean colour and the label 255. Images are resampled bilinearly, with antialiasing where they
    shrink; labels are never interpolated.

    Args:
      image: uint8 [H, W, 3], RGB.
      label: uint8 [H, W], train ids and 255.
      rng: decides everything; equal generators give equal results.
      crop: (height, width) of the result, in pixels.
      scale_range: (low, high) of the uniform scale, > 0.
      flip: whether to mirror left and right half of the time.
      cat_max_ratio: in (0, 1]; a crop in which one class has more than this share of the labelled
        pixels is drawn again, at most ten times. 1 accepts every crop.

    Returns:
      the image uint8 [h, w, 3] and the label uint8 [h, w].

    Example:
      >>> import numpy as np
      >>> from collabseg_jax.data.transforms import random_scale_crop_flip
      >>> image, label = np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8)
      >>> image, label = random_scale_crop_flip(
      ...     image, label, np.random.default_rng(0), crop=(32, 32)
      ... )
      >>> image.shape, label.shape
      ((32, 32, 3), (32, 32))
    """
    height, width = label.shape
    scale = rng.uniform(*scale_range)
    # Rounded to whole pixels, so that the crop's grid is the grid of the shrunken image.
    scaled = max(1, round(height * scale)), max(1, round(width * scale))
    mirror = bool(flip and rng.random() < 0.5)
    for _ in range(_CROP_TRIES):
        corner = _corner(rng, scaled[0] - crop[0]), _corner(rng, scaled[1] - crop[1])
        cropped = _warp(label, scaled, corner, crop, mirror, cv2.INTER_NEAREST, IGNORE)
        if cat_max_ratio >= 1 or _largest_share(cropped) <= cat_max_ratio:
            break
    if scaled[0] < height:
        # warpAffine samples and does not average, so shrink first: what is left is a shift.
        image = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_AREA)
    return _warp(image, scaled, corner, crop, mirror, cv2.INTER_LINEAR, FILL), cropped


def network_size(size: Size, *, short_side: int = 0, long_side: int = 0) -> Size:
    """The (height, width) at which a network sees an image of `size`, with its aspect ratio.

    Args:
      size: (height, width) in pixels.
      short_side: what the shorter side becomes, in pixels; 0: what it is.
      long_side: the most that the longer side may have, in pixels; 0: no limit.

    Example:
      >>> from collabseg_jax.data.transforms import network_size
      >>> network_size((360, 480), short_side=720)
      (720, 960)
    """
    scale = short_side / min(size) if short_side else 1.0
    if long_side:
        scale = min(scale, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """An image uint8 [H, W, 3] at (height, width): bilinear, antialiased where it shrinks."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """A label uint8 [H, W] at (height, width), never interpolated."""
    height, width = size
    return cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def pad_image(image: np.ndarray, shape: Size) -> np.ndarray:
    """An image uint8 [H, W, 3] padded by its reflection at the bottom and right, to (h, w).

    Raises:
      ValueError: `shape` is smaller than the image.
    """
    bottom, right = _padding(image, shape)
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)


def pad_label(label: np.ndarray, shape: Size) -> np.ndarray:
    """A label uint8 [H, W] padded by 255 at the bottom and right, to (h, w).

    Raises:
      ValueError: `shape` is smaller than the label.
    """
    bottom, right = _padding(label, shape)
    return np.pad(label, ((0, bottom), (0, right)), constant_values=IGNORE)


def _padding(array: np.ndarray, shape: Size) -> tuple[int, int]:
    """How many rows and columns are missing at the bottom and right."""
    bottom, right = shape[0] - array.shape[0], shape[1] - array.shape[1]
    if bottom < 0 or right < 0:
        raise ValueError(f"cannot pad {array.shape[:2]} to the smaller {tuple(shape)}")
    return bottom, right


def _corner(rng: np.random.Generator, room: int) -> int:
    """Where the crop begins in the scaled image; negative if the image is smaller than the crop."""
    return int(rng.integers(min(room, 0), max(room, 0), endpoint=True))


def _largest_share(label: np.ndarray) -> float:
    """The share of the most frequent class in the labelled pixels; 1 if none is labelled."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def _warp(
    array: np.ndarray,
    scaled: Size,
    corner: tuple[int, int],
    crop: Size,
    mirror: bool,
    interpolation: int,
    outside: int | tuple[int, int, int],
) -> np.ndarray:
    """Scales, crops and mirrors in one resampling.

    Args:
      array: uint8 [H, W] or [H, W, C].
      scaled: (height, width) that the whole array is scaled to.
      corner: (top, left) of the crop in the scaled array.
      crop: (height, width) of the result.
      mirror: whether to swap left and right in the crop.
      interpolation: one of OpenCV's cv2.INTER_*.
      outside: the value of the pixels that the scaled array does not cover.

    Returns:
      uint8 [h, w] or [h, w, C].
    """
    top, bottom = max(0, -corner[0]), min(crop[0], scaled[0] - corner[0])
    left, right = max(0, -corner[1]), min(crop[1], scaled[1] - corner[1])
    if array.shape[:2] == scaled:  # only a shift: the same bits as below, much faster
        result = np.empty((*crop, *array.shape[2:]), np.uint8)
        inside = array[corner[0] + top : corner[0] + bottom, corner[1] + left : corner[1] + right]
        if mirror:
            inside, left, right = cv2.flip(inside, 1), crop[1] - right, crop[1] - left
        result[top:bottom, left:right] = inside
        result[:top] = result[bottom:] = result[:, :left] = result[:, right:] = outside
        return result
    step_y, step_x = array.shape[0] / scaled[0], array.shape[1] / scaled[1]
    # Pixel i spans i..i + 1, so its centre is at i + 0.5 in both grids.
    start_y = (corner[0] + 0.5) * step_y - 0.5
    start_x = (corner[1] + 0.5) * step_x - 0.5
    if mirror:
        start_x, step_x = start_x + (crop[1] - 1) * step_x, -step_x
    result = cv2.warpAffine(
        array,
        np.array([[step_x, 0, start_x], [0, step_y, start_y]]),
        crop[::-1],
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,  # else the outermost pixels blend with the border colour
    )
    if mirror:
        left, right = crop[1] - right, crop[1] - left
    result[:top] = result[bottom:] = result[:, :left] = result[:, right:] = outside
    return result
