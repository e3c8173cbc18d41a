"""Writing files whole or not at all; a disk that refuses is one line."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from collabseg_jax.errors import RunError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A full or read-only disk becomes a RunError that names the file; yields the path."""
    try:
        yield path
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        temporary.write_text(text)
        os.replace(temporary, path)
