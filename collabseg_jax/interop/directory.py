"""New directories that are written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from collabseg_jax.errors import InputError, RunError


@contextlib.contextmanager
def new_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` at the end; a failure leaves nothing.

    Args:
      path: that does not exist yet, or is an empty directory.

    Raises:
      InputError: `path` is neither, or cannot be made.
      RunError: writing failed (a full disk).
    """
    path = Path(path).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists already, expected a new or empty directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be made: {error.filename}: {error.strerror}") from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)  # mkdtemp's are for their owner only
        for file in temporary.iterdir():  # and so are some libraries' files
            file.chmod(0o666 & ~umask)
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: cannot be written: {reason}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
