"""Convolution of two maps of different grids as one map."""

import jax.numpy as jnp
import numpy as np

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.conv import conv
from collabseg_jax.ops.resize import interpolation_matrix, resize_bilinear


def conv_two_grids(coarse, fine, kernel):
    """conv(concatenate([resize_bilinear(coarse, fine's grid), fine]), kernel).

    Args:
      coarse: [B, h, w, C1] float.
      fine: [B, H, W, C2], same dtype.
      kernel: [k, k, C1 + C2, Cout], same dtype, k odd; padded symmetrically.
    Returns:
      [B, H, W, Cout] in their dtype.
    """
    size, split, grid = kernel.shape[0], coarse.shape[-1], fine.shape[1:3]
    if size % 2 == 0 or kernel.shape[2] != split + fine.shape[-1]:
        raise ValueError(
            f"conv_two_grids of coarse {coarse.shape}, fine {fine.shape} with kernel "
            f"{kernel.shape}: expected [k, k, {split + fine.shape[-1]}, Cout], k odd"
        )
    if formulation() == "plain":
        return conv(jnp.concatenate([resize_bilinear(coarse, grid), fine], axis=-1), kernel)
    # Enlarging mixes no channels and a tap mixes no pixels, so they commute: the products run on
    # the coarse grid, and the enlargement of each tap's result is moved by what the tap reaches.
    rows, columns = (
        _moved(*lengths, size) for lengths in zip(coarse.shape[1:3], grid, strict=True)
    )
    y = jnp.einsum(
        "bhwc,ijco->bhwijo", coarse, kernel[:, :, :split], preferred_element_type=jnp.float32
    )
    y = jnp.einsum("yhi,bhwijo->bywjo", rows, y)
    y = jnp.einsum("xwj,bywjo->byxo", columns, y)
    return y.astype(fine.dtype) + conv(fine, kernel[:, :, split:])


def _moved(length, size, taps):
    """[size, length, taps]: how an axis is enlarged and then read by each tap, zeros outside."""
    reach = (taps - 1) // 2
    padded = np.pad(interpolation_matrix(length, size, False), ((reach, reach), (0, 0)))
    return np.stack([padded[tap : tap + size] for tap in range(taps)], axis=-1)
