"""Photometric changes and normalisation, on the device."""

import jax
import jax.numpy as jnp

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


def normalize(images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, 3] -> float32, by ImageNet's mean and standard deviation.

    Example:
      >>> white = jnp.full((1, 1, 1, 3), 255, jnp.uint8)
      >>> [round(float(x), 3) for x in normalize(white)[0, 0, 0]]  # (1 - mean) / std
      [2.249, 2.429, 2.64]
    """
    return (images.astype(jnp.float32) / 255.0 - jnp.array(MEAN)) / jnp.array(STD)


def color_jitter(
    images: jax.Array,
    rng: jax.Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Random brightness, contrast, saturation and hue, in this order, one draw of each an image.

    Args:
      images: uint8 [B, H, W, 3].
      rng: key.
      brightness: the factor is uniform in [1 - value, 1 + value].
      contrast: the same.
      saturation: the same.
      hue: the angle is uniform in [-value, value], in turns of the colour circle; at most 0.5.

    Returns:
      float32 [B, H, W, 3] in [0, 255]; the images unchanged if all strengths are 0.
    """
    x = images.astype(jnp.float32)
    strengths = (brightness, contrast, saturation)
    if not any((*strengths, hue)):
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
    x = jnp.clip(x, 0.0, 255.0)
    if hue:
        # A fourth key: the three above stay what they are without hue.
        key = jax.random.fold_in(rng, 3)
        x = turn_hue(x, jax.random.uniform(key, (x.shape[0], 1, 1), minval=-hue, maxval=hue))
    return x


def turn_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Adds to the hue H of HSV, and keeps S and V.

    Args:
      images: float32 [..., 3] RGB in [0, top], for any top.
      turns: [...] float32 that broadcasts; 1 is the whole colour circle (360 degrees, or 180 in
        OpenCV's H of uint8 images), 1/3 turns red to green.

    Returns:
      float32 [..., 3] in [0, top]; greys stay as they are.

    Source: Smith 1978, the hexcone model.
    """
    red, green, blue = (images[..., i] for i in range(3))
    value = images.max(-1)
    chroma = value - images.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    sixths = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixths = sixths + 6 * turns

    def channel(offset: float) -> jax.Array:
        k = jnp.mod(sixths + offset, 6.0)
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], -1)
