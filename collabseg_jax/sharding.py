"""The mesh, and how arrays lie on it: batches split over `data`, state on every device."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from collabseg_jax.errors import InputError


def data_mesh(devices=None) -> Mesh:
    """A mesh with one axis, "data", over all devices of all processes (or those given)."""
    devices = np.asarray(jax.devices() if devices is None else devices)
    return Mesh(devices, ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """InputError if a global batch cannot be split evenly over the mesh."""
    if batch_size < 1 or batch_size % mesh.size:
        raise InputError(
            f"{key} is {batch_size}, expected a positive multiple of the {mesh.size} device(s)"
        )


def global_batch(batch: dict, mesh: Mesh) -> dict:
    """This process's rows of a batch -> global arrays, split over the devices."""
    sharding = split(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }
