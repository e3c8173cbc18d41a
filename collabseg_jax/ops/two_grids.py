"""Convolution of two maps of different grids as one map."""

import jax
import jax.numpy as jnp
import numpy as np

from collabseg_jax.ops.backend import formulation
from collabseg_jax.ops.conv import conv
from collabseg_jax.ops.precision import wide_dtype
from collabseg_jax.ops.resize import interpolation_matrix, resize_bilinear


def conv_two_grids(coarse: jax.Array, fine: jax.Array, kernel: jax.Array) -> jax.Array:
    """Enlarge `coarse` to the grid of `fine`, put its channels first, and convolve.

    Equals conv(concatenate([resize_bilinear(coarse, grid of fine), fine], -1), kernel).

    Args:
      coarse: float [B, h, w, C1].
      fine: [B, H, W, C2], same dtype.
      kernel: [k, k, C1 + C2, Cout], same dtype, k odd; padding is symmetric.

    Returns:
      [B, H, W, Cout] in the same dtype.

    Raises:
      ValueError: the kernel is of even size, or its channels do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> coarse, fine = jnp.ones((1, 2, 2, 3)), jnp.ones((1, 4, 4, 5))
      >>> ops.conv_two_grids(coarse, fine, jnp.ones((3, 3, 8, 6))).shape
      (1, 4, 4, 6)
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
    # the coarse grid, and the enlargement of each tap's result is shifted by the tap's offset.
    dtype = wide_dtype(coarse)
    rows, columns = (
        _shifted(length, full, size, dtype)
        for length, full in zip(coarse.shape[1:3], grid, strict=True)
    )
    y = jnp.einsum("bhwc,ijco->bhwijo", coarse, kernel[:, :, :split], preferred_element_type=dtype)
    y = jnp.einsum("yhi,bhwijo->bywjo", rows, y)
    y = jnp.einsum("xwj,bywjo->byxo", columns, y)
    return y.astype(fine.dtype) + conv(fine, kernel[:, :, split:])


def _shifted(length: int, size: int, taps: int, dtype: np.dtype) -> np.ndarray:
    """[size, length, taps]: an axis enlarged and then read by each tap, with zeros outside."""
    reach = (taps - 1) // 2
    matrix = interpolation_matrix(length, size, align_corners=False, dtype=dtype)
    padded = np.pad(matrix, ((reach, reach), (0, 0)))
    return np.stack([padded[tap : tap + size] for tap in range(taps)], axis=-1)
