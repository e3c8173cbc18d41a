"""What training and evaluation batches share: their type, and the checks of arguments."""

from collections.abc import Sequence, Sized

import numpy as np

from collabseg_jax.errors import InputError

Batch = dict[str, np.ndarray]


def checked_rows(source: Sized, batch_size: int, rows: Sequence[int] | None) -> list[int]:
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


def require(condition: bool, what: str, given: object, expected: str) -> None:
    """Raises InputError "what: found GIVEN, expected EXPECTED" unless the condition holds."""
    if not condition:
        raise InputError(f"{what}: found {given}, expected {expected}")
