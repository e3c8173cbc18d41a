"""Photometric changes and normalisation, on the device."""

import jax
import jax.numpy as jnp

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


def normalize(images):
    """uint8 [B, H, W, 3] -> float32, ImageNet mean and standard deviation."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(MEAN)) / jnp.array(STD)


def color_jitter(images, rng, *, brightness=0.0, contrast=0.0, saturation=0.0):
    """Random brightness, contrast and saturation, one draw an image.

    Args:
      images: uint8 [B, H, W, 3].
      rng: key.
      brightness, contrast, saturation: each factor is uniform in [1 - value, 1 + value].
    Returns:
      float32 [B, H, W, 3] in [0, 255]; the images unchanged if all strengths are 0.
    """
    x = images.astype(jnp.float32)
    strengths = (brightness, contrast, saturation)
    if not any(strengths):
        return x
    draws = [
        jax.random.uniform(key, (x.shape[0], 1, 1, 1), minval=1 - s, maxval=1 + s)
        for key, s in zip(jax.random.split(rng, 3), strengths, strict=True)
    ]
    x = x * draws[0]
    grey = (x @ jnp.array([0.299, 0.587, 0.114]))[..., None]
    mean = grey.mean((1, 2), keepdims=True)
    x = mean + (x - mean) * draws[1]
    grey = mean + (grey - mean) * draws[1]
    x = grey + (x - grey) * draws[2]
    return jnp.clip(x, 0.0, 255.0)
