"""The generated data set `shapes`: scenes drawn by a program, nothing to download."""

import functools

import cv2
import numpy as np
import tensorflow_datasets as tfds

from collabseg_jax.data.builders import base
from collabseg_jax.data.source import RandomAccess, Record
from collabseg_jax.data.spec import DatasetSpec
from collabseg_jax.labels import IGNORE

SEED = 0
SIZE = 128
SPLIT_SIZES = {"train": 600, "val": 120}
CLASSES = ("sky", "ground", "stripes", "checks", "dots", "disc", "triangle", "cross")
LAYOUT, TEXTURES, SHAPES = CLASSES[:2], CLASSES[2:5], CLASSES[5:]

SPEC = DatasetSpec(
    name="shapes",
    classes=CLASSES,
    # Paul Tol's muted scheme: its hues stay apart under the common kinds of colour blindness.
    palette=(
        (136, 204, 238),
        (221, 204, 119),
        (51, 34, 136),
        (17, 119, 51),
        (68, 170, 153),
        (204, 102, 119),
        (136, 34, 85),
        (153, 153, 51),
    ),
    splits=tuple(SPLIT_SIZES),
    source="generated",
    licence="CC0-1.0",
)


def scene(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one scene, which depends on `SEED`, the split and the index only.

    Args:
      split: "train" or "val".
      index: which scene of the split, from 0.

    Returns:
      image uint8 [128, 128, 3] RGB and label uint8 [128, 128], where 255 is the border of objects.

    Example:
      >>> from collabseg_jax.data.builders import shapes
      >>> image, label = shapes.scene("train", 0)
      >>> image.shape, label.shape
      ((128, 128, 3), (128, 128))
    """
    rng = np.random.default_rng([SEED, list(SPLIT_SIZES).index(split), index])
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)

    surfaces = _colour_pair(rng, np.empty((0, 3)))
    horizon = _horizon(rng, x[0])
    label = (y > horizon).astype(np.uint8)
    below = np.clip(y - horizon + 0.5, 0, 1)[..., None]
    image = surfaces[0] * (1 - below) + surfaces[1] * below

    kinds = rng.permutation(TEXTURES + SHAPES)[: rng.integers(4, 6)]
    sides = rng.uniform(34, 46, len(kinds))
    for kind, side, centre in zip(kinds, sides, _places(rng, sides), strict=True):
        colours = _colour_pair(rng, surfaces)
        _draw(rng, image, label, kind, side, centre, colours)

    slope = rng.uniform(-0.15, 0.15, 2) / SIZE
    light = 1 + slope[0] * (2 * x - SIZE) + slope[1] * (2 * y - SIZE)
    image = image * light[..., None] + rng.normal(0, 5, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def _horizon(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A slightly tilted, wavy line, close enough to the middle to show in 2/3 of an image.

    Args:
      rng: the scene's generator.
      x: columns [W].

    Returns:
      the row of the horizon in each column [W].
    """
    level, tilt = rng.uniform(0.37, 0.63) * SIZE, rng.uniform(-0.1, 0.1)
    wave = rng.uniform(0, 4) * np.sin(2 * np.pi * (x / rng.uniform(40, 90) + rng.uniform()))
    return level + tilt * (x - SIZE / 2) + wave


def _colour_pair(rng: np.random.Generator, surroundings: np.ndarray) -> np.ndarray:
    """Two interchangeable colours [2, 3], far from each other and from `surroundings` [N, 3]."""
    pairs = rng.uniform(30, 225, (64, 2, 3))
    contrast = np.linalg.norm(pairs[:, 0] - pairs[:, 1], axis=-1)
    outside = np.linalg.norm(pairs[:, :, None] - surroundings, axis=-1)
    apart = (contrast > 100) & (outside > 70).all(axis=(1, 2))
    return pairs[apart.argmax()]


def _places(rng: np.random.Generator, sides: np.ndarray) -> np.ndarray:
    """Centres (x, y) [N, 2] of objects with these sides [N], with little overlap between them."""
    centres = np.empty((0, 2))
    for i, side in enumerate(sides):
        tries = rng.uniform(20, SIZE - 20, (12, 2))
        gaps = np.linalg.norm(tries[:, None] - centres, axis=-1) - (side + sides[:i]) / 2
        roomiest = gaps.min(axis=1, initial=0).argmax()
        centres = np.vstack([centres, tries[roomiest]])
    return centres


def _draw(
    rng: np.random.Generator,
    image: np.ndarray,
    label: np.ndarray,
    kind: str,
    side: float,
    centre: np.ndarray,
    colours: np.ndarray,
) -> None:
    """Paints one object of area side**2 into image [H, W, 3] and label [H, W], in place."""
    reach = 0.9 * side + 2  # no outline is farther from its centre
    left, top = np.maximum(centre - reach, 0).astype(int)
    right, bottom = np.minimum(centre + reach, SIZE).astype(int)
    window = np.s_[top:bottom, left:right]
    y, x = np.mgrid[window].astype(np.float64)
    distance = _outline(rng, kind, side, *_turn(rng, x - centre[0], y - centre[1]))
    ink = _texture(rng, kind, *_turn(rng, x - centre[0], y - centre[1]))[..., None]

    # Anti-aliasing mixes colours only where the border is ignored.
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    fill = colours[0] * (1 - ink) + colours[1] * ink
    image[window] = image[window] * (1 - cover) + fill * cover
    label[window][distance < 0] = CLASSES.index(kind)
    label[window][np.abs(distance) < 1] = IGNORE


def _turn(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates rotated by a random angle between -20 and 20 degrees."""
    angle = np.deg2rad(rng.uniform(-20, 20))
    return np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y


def _outline(
    rng: np.random.Generator, kind: str, side: float, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Distance in pixels to the outline [h, w], almost exact near it, negative inside.

    Every outline encloses the area side**2. Textured objects are random blobs.
    """
    if kind == "triangle":
        inner = side / 27**0.25  # radius of the inscribed circle
        return np.maximum(y, 0.75**0.5 * np.abs(x) - y / 2) - inner
    if kind == "cross":
        # Five squares of one arm's width.
        arm = side / 5**0.5
        across, along = np.minimum(np.abs(x), np.abs(y)), np.maximum(np.abs(x), np.abs(y))
        return np.maximum(across - arm / 2, along - 1.5 * arm)
    radius = side / np.pi**0.5
    if kind != "disc":
        waves = np.arange(2, 5)
        heights, phases = rng.uniform(0, 0.13, 3), rng.uniform(0, 2 * np.pi, 3)
        bumps = heights * np.cos(waves * np.arctan2(y, x)[..., None] + phases)
        radius = radius * (1 + bumps.sum(-1)) / (1 + (heights**2).sum() / 2) ** 0.5
    return np.hypot(x, y) - radius


def _texture(rng: np.random.Generator, kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of the second colour in each pixel, [h, w] in 0..1.

    The three textures have the same range of wavelengths, 6 to 8 pixels, so that neither their
    coarseness nor a small change of scale distinguishes them. The kinds that differ by shape are
    all speckled.
    """
    wavelength = rng.uniform(6, 8)
    x, y = x + rng.uniform(0, 20), y + rng.uniform(0, 20)
    cell = wavelength * 2**0.5
    if kind == "stripes":
        wave = np.sin(2 * np.pi * x / wavelength)
    elif kind == "checks":
        wave = np.sin(2 * np.pi * x / cell) * np.sin(2 * np.pi * y / cell)
    elif kind == "dots":
        to_centre = np.hypot(x % cell - cell / 2, y % cell - cell / 2)
        wave = (0.32 * cell - to_centre) / 2
    else:
        height, width = x.shape
        speckles = rng.uniform(-0.5, 0.5, (height // 2 + 1, width // 2 + 1))
        wave = speckles.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.clip(0.5 + wave, 0, 1)


def _png(pixels: np.ndarray) -> bytes:
    """PNG bytes of an image [H, W, 3] RGB or a label [H, W]."""
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV writes BGR
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


class Shapes(base.RecordBuilder):
    """Drawn scenes in which every class is recognised by its own kind of cue.

    A scene, 128x128, has two surfaces that meet at a wavy horizon, and on them four or five objects
    of different classes, each 35 to 70 pixels wide and rotated by up to 20 degrees:

    - by layout: `sky` is above the horizon, `ground` below it; they look alike;
    - by texture: `stripes`, `checks` and `dots` fill the same random blobs at the same coarseness;
    - by shape: `disc`, `triangle` and `cross` are equally speckled and have the same areas.

    Colours change with every surface and object and are drawn in the same way for all kinds of
    object, so they say almost nothing about the class; a lighting gradient and mild noise cover
    the image. A scene that is mirrored or scaled a little keeps its classes. The border of an
    object is labelled 255 (ignore), about 2 pixels wide, as in PASCAL VOC.

    Splits: train 600, val 120. Scene i of a split is drawn from
    `numpy.random.default_rng([SEED, split number, i])`, with SEED = 0. Raise VERSION whenever a
    scene changes, so that prepared copies of the old scenes are not used.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.Image(
                        shape=(None, None, 1), dtype=np.uint8, encoding_format="png"
                    ),
                    "name": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    @staticmethod
    def records() -> dict[str, RandomAccess[Record]]:
        """What a copy holds in every split."""
        return {
            split: base.LazyRecords(functools.partial(_record, split), range(size))
            for split, size in SPLIT_SIZES.items()
        }


def _record(split: str, index: int) -> Record:
    image, label = scene(split, index)
    return {"image": _png(image), "label": _png(label), "name": f"{split}_{index:04d}"}
