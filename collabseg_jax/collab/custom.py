"""A user's own loss, imported by name."""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from collabseg_jax.errors import InputError


@functools.cache
def load(name: str) -> Callable:
    """The function that a name stands for.

    Args:
      name: "package.module:function", or "path/to/file.py:function" (relative to where the program
        was started).

    Raises:
      InputError: no such module, file or function; one line that says what was looked for.
    """

    def refuse(problem: str) -> InputError:
        return InputError(
            f"losses.custom.fn is {name!r}: {problem}; expected package.module:function or "
            "path/to/file.py:function"
        )

    place, _, function = name.rpartition(":")
    if not place or not function:
        raise refuse("no place or no function" if name else "empty")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise refuse(f"no file {place}")
        # Under a name that shadows no module; dataclasses look their own module up by it.
        spec = importlib.util.spec_from_file_location(f"custom_loss {place}", place)
        assert spec is not None and spec.loader is not None  # it is a .py file
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # an error inside the file surfaces whole
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise refuse(f"no module {error.name}") from None
    loss = getattr(module, function, None)
    if not callable(loss):
        raise refuse(f"{place} has no function {function}")
    return loss
