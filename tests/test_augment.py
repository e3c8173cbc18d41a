"""Normalisation and colour jitter."""

import jax
import numpy as np

from collabseg_jax import augment


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
        found = augment.color_jitter(image, key, **{name: 0.2})
        np.testing.assert_allclose(found, base + (image - base) * factor, rtol=1e-4)
