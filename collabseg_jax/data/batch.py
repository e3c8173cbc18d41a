"""What training and evaluation batches share: their type, and the checks of what is asked for."""

import os
from collections.abc import Sequence

import numpy as np

from collabseg_jax.errors import InputError

Batch = dict[str, np.ndarray]


def checked_rows(source: Sequence, batch_size: int, rows: Sequence[int] | None) -> list[int]:
    """The rows of each global batch to make, all if None.

    Raises:
      InputError: there is no record, or an argument is out of range.
    """
    require(len(source) > 0, "data source", "no records", "at least one")
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    rows = list(range(batch_size) if rows is None else rows)
    require(
        len(rows) > 0 and set(rows) <= set(range(batch_size)),
        "rows",
        rows,
        f"at least one of 0 .. {batch_size - 1}",
    )
    return rows


def require(condition: bool, what: str, found, expected: str) -> None:
    """InputError "what: found X, expected Y" unless the condition holds."""
    if not condition:
        raise InputError(f"{what}: found {found}, expected {expected}")


def reading_threads() -> int:
    """Half the cores, for the other half feeds the device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, max(1, cores // 2))
