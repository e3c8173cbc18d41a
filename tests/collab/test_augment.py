"""Normalisation and colour jitter."""

import colorsys

import jax
import numpy as np
import pytest

from collabseg_jax.collab import augment


def test_normalize_by_hand():
    image = np.array([[[[255, 0, 128]]]], np.uint8)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]
    np.testing.assert_allclose(augment.normalize(image)[0, 0, 0], expected, rtol=1e-5)


def test_jitter_of_strength_zero_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(augment.color_jitter(image, jax.random.key(0)), image)


def test_each_jitter_against_its_formula():
    image = np.random.default_rng(0).integers(60, 120, (2, 4, 5, 3)).astype(np.uint8)
    key = jax.random.key(3)
    keys = jax.random.split(key, 3)
    grey = image @ np.array([0.299, 0.587, 0.114])
    for i, name in enumerate(("brightness", "contrast", "saturation")):
        factor = jax.random.uniform(keys[i], (2, 1, 1, 1), minval=0.8, maxval=1.2)
        factor = np.asarray(factor, np.float64)
        base = {
            "brightness": np.zeros_like(image, np.float64),
            "contrast": grey.mean((1, 2))[:, None, None, None],
            "saturation": grey[..., None],
        }[name]
        actual = augment.color_jitter(image, key, **{name: 0.2})
        np.testing.assert_allclose(actual, base + (image - base) * factor, rtol=1e-4)


def turned(image, turns):
    """Pixel by pixel with Python's own HSV; image [..., 3] in 0..255."""
    pixels = []
    for pixel in image.reshape(-1, 3).astype(np.float64) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        pixels.append(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value))
    return 255 * np.reshape(pixels, image.shape)


def test_thirds_of_the_circle_by_hand():
    image = np.float32([[255, 0, 0], [0, 255, 0], [10, 40, 200], [7, 7, 7], [0, 0, 0]])
    actual = augment.turn_hue(image, 1 / 3)
    np.testing.assert_allclose(actual, image[:, [2, 0, 1]], atol=1e-3)  # red to green to blue
    np.testing.assert_allclose(augment.turn_hue(image, -1 / 3), image[:, [1, 2, 0]], atol=1e-3)
    np.testing.assert_allclose(augment.turn_hue(image[:1], 1 / 6), [[255, 255, 0]], atol=1e-3)


@pytest.mark.parametrize("turns", [-0.5, -0.13, 0, 0.05, 0.4])
def test_hue_is_that_of_colorsys(turns):
    image = np.random.default_rng(0).integers(0, 256, (40, 3)).astype(np.float32)
    image[:9] = np.random.default_rng(1).choice([0, 128, 255], (9, 3))  # ties of channels
    np.testing.assert_allclose(augment.turn_hue(image, turns), turned(image, turns), atol=2e-3)


def test_hue_is_drawn_for_each_image_within_its_limits():
    image = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3)).astype(np.uint8)
    images = image.repeat(64, 0)
    actual = np.asarray(augment.color_jitter(images, jax.random.key(1), hue=0.1))
    turns = np.linspace(-0.1, 0.1, 2001)
    table = np.stack([turned(image, t)[0] for t in turns])
    nearest = np.abs(actual[:, None] - table[None]).max((2, 3, 4)).argmin(1)
    assert np.abs(actual - table[nearest]).max() < 0.2
    drawn = turns[nearest]
    assert np.ptp(drawn) > 0.15 and len(set(nearest)) > 50 and abs(drawn.mean()) < 0.03


def test_hue_leaves_the_other_draws_alone():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    strengths = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    plain = augment.color_jitter(images, jax.random.key(1), **strengths)
    both = augment.color_jitter(images, jax.random.key(1), **strengths, hue=0.3)
    assert np.abs(np.asarray(plain) - np.asarray(both)).max() > 1
    for of in (np.max, np.min):  # hue turns, and changes neither value nor chroma
        np.testing.assert_allclose(of(both, axis=-1), of(plain, axis=-1), atol=1e-3)
