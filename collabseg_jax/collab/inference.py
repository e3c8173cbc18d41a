"""Label maps of whole images, as the field makes them: windows, scales, mirroring, any size."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from collabseg_jax import ops
from collabseg_jax.collab import augment
from collabseg_jax.collab.pair import STUDENTS, Pair
from collabseg_jax.data.transforms import MIN_SIDE
from collabseg_jax.errors import InputError

OUTPUTS = (*STUDENTS, "ensemble")
_STRIP = 2**24  # numbers of a strip of class scores: 64 MB


@dataclasses.dataclass(frozen=True)
class Inference:
    """How a student is applied to an image.

    Attributes:
      window: (height, width) of the windows that an image is cut into, logits averaged where they
        overlap; (): the whole image at once. An image smaller than a window is one window.
      stride: (vertical, horizontal) step between windows; (): two thirds of the window.
      scales: of the image; the class probabilities are averaged.
      flip: average with the mirrored image, too.
    """

    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        """InputError for a value out of range, by the keys of `config.eval`."""
        if self.window and (len(self.window) != 2 or min(self.window) < MIN_SIDE):
            raise InputError(
                f"config.eval.window is {self.window}, expected () or (height, width), both at "
                f"least {MIN_SIDE}"
            )
        if self.stride:
            if not self.window:
                raise InputError(
                    f"config.eval.stride is {self.stride} without a config.eval.window"
                )
            fits = len(self.stride) == 2 and all(
                1 <= step <= side for step, side in zip(self.stride, self.window, strict=True)
            )
            if not fits:
                raise InputError(
                    f"config.eval.stride is {self.stride}, expected (vertical, horizontal), from 1 "
                    f"to the window's {self.window}"
                )
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise InputError(f"config.eval.scales is {self.scales}, expected numbers > 0")


@struct.dataclass
class ScaledLogits:
    """Logits of one student for one scale of the images, mirrored or not.

    Attributes:
      logits: float32 [B, h, w, K], at the head's resolution or, of windows, at `scaled`.
      image: (H, W) of the images.
      scaled: (H, W) that the student saw them at.
      align_corners: how `logits` lie on `scaled`.
    """

    logits: jax.Array
    image: tuple[int, int] = struct.field(pytree_node=False)
    scaled: tuple[int, int] = struct.field(pytree_node=False)
    align_corners: bool = struct.field(pytree_node=False, default=False)


def apply_students(
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    pair: Pair,
    students: Sequence[str],
    how: Inference = Inference(),
) -> dict[str, list[ScaledLogits]]:
    """The logits of students for whole images.

    Args:
      variables: {student: {params, batch_stats}}, of those in `students`.
      images: uint8 [B, H, W, 3].
      pair: the students.
      students: which of "cnn", "vit".
      how: windows, scales and mirroring.

    Returns:
      {student: [ScaledLogits, ...]}, one for each scale, twice as many with `flip`.
    """
    size, images = (images.shape[1], images.shape[2]), augment.normalize(images)
    logits_of: dict[str, list[ScaledLogits]] = {name: [] for name in students}
    for scale in how.scales:
        scaled = (max(MIN_SIDE, round(size[0] * scale)), max(MIN_SIDE, round(size[1] * scale)))
        x = images
        if scaled != size:
            x = jax.image.resize(images, (len(images), *scaled, 3), "linear", antialias=True)
        for mirrored in (False, True) if how.flip else (False,):
            seen = x[:, :, ::-1] if mirrored else x
            for name in students:
                logits, align_corners = _apply(getattr(pair, name), variables[name], seen, how)
                logits = logits[:, :, ::-1] if mirrored else logits
                logits_of[name].append(ScaledLogits(logits, size, scaled, align_corners))
    return logits_of


def _apply(model: Any, variables: Any, images: jax.Array, how: Inference) -> tuple[jax.Array, bool]:
    """(logits, align_corners) of images float32 [B, H, W, 3], in windows if there are several."""
    size = (images.shape[1], images.shape[2])
    window = tuple(map(min, how.window or size, size))
    if window == size:
        output = model.apply(variables, images, train=False)
        return output.logits, output.align_corners
    corners = window_corners(size, window, how.stride)

    def add(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        place = (0, *corner, 0)
        piece = jax.lax.dynamic_slice(images, place, (len(images), *window, 3))
        logits = model.apply(variables, piece, train=False).logits_at(window)
        before = jax.lax.dynamic_slice(total, place, logits.shape)
        return jax.lax.dynamic_update_slice(total, before + logits, place), None

    count = np.zeros(size, np.float32)
    for top, left in corners:
        count[top : top + window[0], left : left + window[1]] += 1
    total = jnp.zeros((len(images), *size, model.num_classes), jnp.float32)
    total, _ = jax.lax.scan(add, total, jnp.asarray(corners))
    return total / count[..., None], False


def window_corners(
    size: tuple[int, int], window: tuple[int, ...], stride: tuple[int, ...] = ()
) -> np.ndarray:
    """(top, left) of the windows that cover an image, int32 [N, 2].

    They begin every `stride`; the last of a row or column is moved back into the image.

    Args:
      size: (H, W) of the image.
      window: (height, width), not larger.
      stride: (vertical, horizontal); () for two thirds of the window.

    Example:
      >>> window_corners((4, 6), (4, 4), (2, 2)).tolist()
      [[0, 0], [0, 2]]
    """
    stride = stride or tuple(max(1, side * 2 // 3) for side in window)
    starts = [
        [min(start, n - w) for start in range(0, n - w + step, step)]
        for n, w, step in zip(size, window, stride, strict=True)
    ]
    return np.array([(top, left) for top in starts[0] for left in starts[1]], np.int32)


def label_maps(
    logits_of: Mapping[str, list[ScaledLogits]],
    shape: tuple[int, int],
    *,
    outputs: Sequence[str],
    sizes: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The likeliest classes at each pixel.

    Logits are interpolated to the pixel, their softmaxes averaged over the views; "ensemble" is the
    mean of both students. Works in strips of rows, so that the scores of all classes at all pixels
    are never held at once.

    Args:
      logits_of: of `apply_students`, at least for the students that `outputs` needs.
      shape: (H', W') of the maps.
      outputs: any of "cnn", "vit", "ensemble".
      sizes: int [B, 4]: height and width of each image without its padding, and of the part of the
        map that shows it. None: a map shows its image pixel by pixel.

    Returns:
      {output: uint8 [B, H', W']}.
    """
    batch, classes = (next(iter(logits_of.values()))[0].logits.shape[i] for i in (0, 3))
    height, width = shape
    rows = min(height, max(1, _STRIP // (batch * width * classes)))
    starts = np.minimum(np.arange(0, height, rows), height - rows)
    columns = jnp.arange(width)

    def strip(start: Any) -> dict[str, jax.Array]:
        mean: dict[str, Any] = {}
        for name, own in logits_of.items():
            scores = [_at(view, start + jnp.arange(rows), columns, sizes) for view in own]
            mean[name] = sum(map(jax.nn.softmax, scores)) / len(scores)
        if "ensemble" in outputs:
            mean["ensemble"] = sum(mean[name] for name in STUDENTS) / len(STUDENTS)
        return {name: jnp.argmax(mean[name], -1).astype(jnp.uint8) for name in outputs}

    if rows == height:
        return strip(0)

    def put(maps: dict[str, jax.Array], start: jax.Array) -> tuple[dict[str, jax.Array], None]:
        new = strip(start)
        place = {
            name: jax.lax.dynamic_update_slice(maps[name], new[name], (0, start, 0))
            for name in outputs
        }
        return place, None

    empty = {name: jnp.zeros((batch, *shape), jnp.uint8) for name in outputs}
    return jax.lax.scan(put, empty, jnp.asarray(starts))[0]


def _at(
    view: ScaledLogits, rows: jax.Array, columns: jax.Array, sizes: jax.Array | None
) -> jax.Array:
    """Logits [B, len(rows), len(columns), K] at pixels of the label map."""
    x = view.logits
    if sizes is None and (len(rows), len(columns)) == view.image == view.scaled:
        return ops.resize_bilinear(x, view.image, align_corners=view.align_corners)
    for axis, pixels in ((0, rows), (1, columns)):
        at = pixels[None].astype(jnp.float32)
        if sizes is not None:
            own, shown = sizes[:, axis, None], sizes[:, axis + 2, None]
            at = jnp.clip((at + 0.5) * (own / shown) - 0.5, 0, own - 1)
        if view.scaled != view.image:
            at = (at + 0.5) * (view.scaled[axis] / view.image[axis]) - 0.5
        length = x.shape[axis + 1]
        if view.align_corners:
            at = at * ((length - 1) / max(1, view.scaled[axis] - 1))
        else:
            at = (at + 0.5) * (length / view.scaled[axis]) - 0.5
        x = _interpolate(x, at, axis + 1)
    return x


def _interpolate(x: jax.Array, at: jax.Array, axis: int) -> jax.Array:
    """Reads x [B, ..] between its elements along an axis, at [B or 1, N], held within the map."""
    at = jnp.clip(at, 0, x.shape[axis] - 1)
    low = jnp.floor(at).astype(jnp.int32)
    high = jnp.minimum(low + 1, x.shape[axis] - 1)
    share = (at - low).reshape(*at.shape[:1], *[1] * (axis - 1), -1, *[1] * (x.ndim - axis - 1))
    if len(at) == 1:
        low, high = (x.take(index[0], axis) for index in (low, high))
    else:
        take = jax.vmap(lambda one, index: one.take(index, axis - 1))
        low, high = take(x, low), take(x, high)
    return low * (1 - share) + high * share
