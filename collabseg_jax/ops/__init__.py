"""Primitive operations on NHWC arrays, each in the formulation that suits the backend.

Every operation that XLA:CPU computes slowly has two formulations here and nowhere else; `backend`
chooses between them. `benchmarks/ops.py` measures them.
"""

from collabseg_jax.ops.activation import gelu
from collabseg_jax.ops.attention import attention
from collabseg_jax.ops.backend import formulation, using
from collabseg_jax.ops.conv import conv
from collabseg_jax.ops.depthwise import depthwise_conv
from collabseg_jax.ops.pool import max_pool_3x3_stride_2
from collabseg_jax.ops.precision import wide_dtype
from collabseg_jax.ops.resize import resize_bilinear
from collabseg_jax.ops.strips import over_rows
from collabseg_jax.ops.two_grids import conv_two_grids

__all__ = [
    "attention",
    "conv",
    "conv_two_grids",
    "depthwise_conv",
    "formulation",
    "gelu",
    "max_pool_3x3_stride_2",
    "over_rows",
    "resize_bilinear",
    "using",
    "wide_dtype",
]
