"""The files of configs/, found and read as Python. Imports nothing that takes time."""

import importlib.util
from pathlib import Path
from typing import Any

from collabseg_jax.errors import InputError

PAGES = Path(__file__).parents[1] / "configs"  # ships inside the package


def find_page(name: str) -> Path | None:
    """The file of a config: as given, or a page of those that ship inside the package.

    Args:
      name: `configs/ade20k.py`, `quickstart`, `studies/shapes`, without what follows a colon.
    """
    if Path(name).is_file():
        return Path(name)
    inside = PAGES / Path(name.removeprefix("configs/")).with_suffix(".py")
    return inside if inside.is_file() else None


def load(path: str) -> Any:
    """The config of NAME or NAME:ARGUMENT; an error inside the file surfaces whole.

    Raises:
      InputError: there is no such file.
      ValueError: the file does not take this argument.
    """
    name, *arguments = path.split(":")
    page = find_page(name)
    if page is None:
        raise InputError(f"{name}: no such config, expected one like configs/quickstart.py")
    spec = importlib.util.spec_from_file_location("a_config_file", page)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)
