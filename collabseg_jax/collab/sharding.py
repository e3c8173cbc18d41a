"""The mesh, and how arrays lie on it: batches split over devices, the state on each of them.

A mesh has two axes. Over `data` the images of a batch are split, over `space` the rows of each
image; XLA inserts the exchange of the rows at the borders.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from collabseg_jax.errors import InputError

# Image rows of a device: two rows of the last feature map, at stride 32. With one, and compute and
# norms in different types, XLA (jax 0.10.2, CPU) loses three quarters of the encoder's gradient.
MIN_ROWS = 64


def make_mesh(
    data: int = -1, space: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices of all processes (or those given).

    Args:
      data: devices along the batch; -1 for all that `space` leaves.
      space: devices along the rows of each image.
      devices: None for all of all processes.

    Raises:
      InputError: the product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    given = f"config.mesh is data={data}, space={space}"
    if space < 1 or len(devices) % space:
        raise InputError(f"{given}; expected a space that divides the {len(devices)} device(s)")
    if data == -1:
        data = len(devices) // space
    if data * space != len(devices):
        raise InputError(f"{given}; expected data * space = {len(devices)}, the devices there are")
    axes = (AxisType.Auto,) * 2
    return jax.make_mesh((data, space), ("data", "space"), axis_types=axes, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


@dataclasses.dataclass(frozen=True)
class Layout:
    """How global batches of one size lie on a mesh.

    Attributes:
      mesh: of `make_mesh`.
      batch_size: images of a global batch.
      spatial: split rows of images over "space"; without, whole images over all devices.
    """

    mesh: Mesh
    batch_size: int
    spatial: bool = False

    @property
    def shardings(self) -> dict[str, NamedSharding]:
        """By key of a batch."""
        images = PartitionSpec(*self._axes)
        rows = NamedSharding(self.mesh, PartitionSpec(self._axes[0]))
        return {
            "image": NamedSharding(self.mesh, images),
            "label": NamedSharding(self.mesh, images),
            "valid": rows,
        }

    @functools.cached_property
    def rows(self) -> list[int]:
        """Which images of a global batch this process's devices need, ascending."""
        return _rows(self.shardings["valid"], self.batch_size)

    @property
    def _axes(self) -> tuple[Any, ...]:
        return ("data", "space") if self.spatial else (("data", "space"),)

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch, in the order of `rows`, -> global arrays."""
        rows = self.shardings["valid"]  # of a key that is neither image nor label
        return {
            key: self._place(self.shardings.get(key, rows), value) for key, value in batch.items()
        }

    def _place(self, sharding: NamedSharding, value: np.ndarray) -> jax.Array:
        shape = (self.batch_size, *value.shape[1:])

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # JAX names the part of each device
            # The rows of a device are consecutive, and all of them are among this process's.
            start, stop, _ = index[0].indices(self.batch_size)
            first = self.rows.index(start)
            return value[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, part)


def _rows(sharding: NamedSharding, batch_size: int) -> list[int]:
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for part in parts if part for row in range(*part[0].indices(batch_size))})


def train_layout(mesh: Mesh, *, batch_size: int, crop: tuple[int, int]) -> Layout:
    """The layout of training batches.

    Raises:
      InputError: batch or crop cannot be split evenly.
    """
    data, space = (mesh.shape[axis] for axis in ("data", "space"))
    if batch_size < 1 or batch_size % data:
        raise InputError(
            f"config.batch_size is {batch_size}, expected a positive multiple of the {data} "
            "device(s) along config.mesh.data"
        )
    if crop[0] % space or (space > 1 and crop[0] < MIN_ROWS * space):
        raise InputError(
            f"config.data.crop is {tuple(crop)}, expected a height that config.mesh.space = "
            f"{space} divides, at least {MIN_ROWS * space}"
        )
    return Layout(mesh, batch_size, spatial=True)


def eval_layout(mesh: Mesh, *, batch_size: int) -> Layout:
    """The layout of evaluation: whole images, the batch rounded up to the devices."""
    return Layout(mesh, -(-batch_size // mesh.size) * mesh.size)
