"""Geometry on the host: uint8 in, uint8 of a fixed shape out, image and label always together."""

import cv2
import numpy as np

from collabseg_jax.labels import IGNORE

cv2.setNumThreads(0)  # one image per thread; more threads inside an image only contend

# ImageNet's mean colour: close to 0 once normalised.
FILL = (124, 116, 104)
_CROP_TRIES = 10
MIN_SIDE = 32  # of what the students see: SegFormer's first reduction covers 8 cells of stride 4


def random_scale_crop_flip(
    image: np.ndarray,
    label: np.ndarray,
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale_range: tuple[float, float] = (0.5, 2.0),
    flip: bool = True,
    cat_max_ratio: float = 0.75,
) -> tuple[np.ndarray, np.ndarray]:
    """Scales at random, cuts out a crop at random, mirrors half of the time.

    An image smaller than the crop lands somewhere inside it; around it, the image is ImageNet's
    mean colour and the label 255. The image is bilinear, and antialiased where it shrinks; labels
    are never interpolated.

    Args:
      image: uint8 [H, W, 3].
      label: uint8 [H, W].
      rng: decides everything; equal generators give equal results.
      crop: (height, width) of the result.
      scale_range: (low, high) of the uniform scale, > 0.
      flip: whether to mirror left and right half of the time.
      cat_max_ratio: in 0..1; a crop in which one class has more than this share of the labelled
        pixels is drawn again, at most ten times. 1 accepts every crop.

    Returns:
      uint8 [h, w, 3] and uint8 [h, w].
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


def network_size(
    size: tuple[int, int], *, short_side: int = 0, long_side: int = 0
) -> tuple[int, int]:
    """The (height, width) at which a network sees an image of `size`, its proportions kept.

    Args:
      size: (height, width).
      short_side: what the shorter side becomes; 0: what it is.
      long_side: the longer side is at most so long; 0: any length.
    """
    scale = short_side / min(size) if short_side else 1.0
    if long_side:
        scale = min(scale, long_side / max(size))
    return tuple(max(1, round(side * scale)) for side in size)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 [H, W, 3] at (height, width): bilinear, antialiased where it shrinks."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] < image.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, tuple(size)[::-1], interpolation=interpolation)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label uint8 [H, W] at (height, width), never interpolated."""
    return cv2.resize(label, tuple(size)[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def pad_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image uint8 [H, W, 3] continued by its reflection at the bottom and right, to (h, w).

    Raises:
      ValueError: `shape` is smaller than the image.
    """
    below, beside = _room(image, shape)
    return cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REFLECT_101)


def pad_label(label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A label uint8 [H, W] continued by 255 at the bottom and right, to (h, w).

    Raises:
      ValueError: `shape` is smaller than the label.
    """
    below, beside = _room(label, shape)
    return np.pad(label, ((0, below), (0, beside)), constant_values=IGNORE)


def _room(array: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    below, beside = shape[0] - array.shape[0], shape[1] - array.shape[1]
    if below < 0 or beside < 0:
        raise ValueError(f"cannot pad {array.shape[:2]} to the smaller {tuple(shape)}")
    return below, beside


def _corner(rng: np.random.Generator, room: int) -> int:
    """Where the crop begins in the scaled image; negative where the image is the smaller one."""
    return int(rng.integers(min(room, 0), max(room, 0), endpoint=True))


def _largest_share(label: np.ndarray) -> float:
    """The share of the commonest class among the labelled pixels; 1 if none is labelled."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def _warp(array, scaled, corner, crop, mirror, interpolation, outside) -> np.ndarray:
    """Scale, crop and mirror in one resampling.

    Args:
      array: uint8 [H, W] or [H, W, C].
      scaled: (height, width) that the whole array is scaled to.
      corner: (top, left) of the crop in the scaled array.
      crop: (height, width) of the result.
      mirror: whether to swap left and right in the crop.
      interpolation: of OpenCV.
      outside: colour of what the scaled array does not cover.

    Returns:
      uint8 [h, w] or [h, w, C].
    """
    top, bottom = max(0, -corner[0]), min(crop[0], scaled[0] - corner[0])
    left, right = max(0, -corner[1]), min(crop[1], scaled[1] - corner[1])
    if array.shape[:2] == scaled:  # only a shift: the same bits as below, many times faster
        result = np.empty((*crop, *array.shape[2:]), np.uint8)
        inside = array[corner[0] + top : corner[0] + bottom, corner[1] + left : corner[1] + right]
        if mirror:
            inside, left, right = cv2.flip(inside, 1), crop[1] - right, crop[1] - left
        result[top:bottom, left:right] = inside
        result[:top] = result[bottom:] = result[:, :left] = result[:, right:] = outside
        return result
    step_y, step_x = array.shape[0] / scaled[0], array.shape[1] / scaled[1]
    # Pixel i covers i..i + 1, so its centre is at i + 0.5 in both grids.
    start_y = (corner[0] + 0.5) * step_y - 0.5
    start_x = (corner[1] + 0.5) * step_x - 0.5
    if mirror:
        start_x, step_x = start_x + (crop[1] - 1) * step_x, -step_x
    result = cv2.warpAffine(
        array,
        np.array([[step_x, 0, start_x], [0, step_y, start_y]]),
        crop[::-1],
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,  # else the outermost pixels fade into the border colour
    )
    if mirror:
        left, right = crop[1] - right, crop[1] - left
    result[:top] = result[bottom:] = result[:, :left] = result[:, right:] = outside
    return result
