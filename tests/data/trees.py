"""Miniature data sets in their official layouts, and encoded images, made on the spot."""

import io
from pathlib import Path

import numpy as np
import PIL.Image

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


def records(count: int, sizes=(SIZE,)) -> list[dict]:
    """Records of the sizes in turn."""
    return [record(i, sizes[i % len(sizes)]) for i in range(count)]


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
