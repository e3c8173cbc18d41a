"""The files of configs/, found and read as Python. Imports nothing that takes time."""

import importlib.util
import inspect
from pathlib import Path

from ml_collections import ConfigDict

from collabseg_jax.errors import InputError

PAGES = Path(__file__).parents[1] / "configs"  # ships inside the package


def find_page(name: str) -> Path | None:
    """The file of a config: as given, or a page of those that ship inside the package.

    Args:
      name: `configs/ade20k.py`, `quickstart`, `studies/shapes`, without what follows a colon.
    """
    if Path(name).is_file():
        return Path(name)
    if not name.strip("./"):
        return None
    inside = PAGES / Path(name.removeprefix("configs/")).with_suffix(".py")
    return inside if inside.is_file() else None


def load(path: str) -> ConfigDict:
    """The config of NAME or NAME:ARGUMENT; an error inside the file surfaces whole.

    Raises:
      InputError: there is no such file, it makes no config, or takes no such argument.
      ValueError: the file itself refuses the argument.
    """
    name, *arguments = path.split(":")
    page = find_page(name)
    if page is None:
        raise InputError(f"{name}: no such config, expected one like configs/quickstart.py")
    if page.suffix == ".json":
        raise InputError(
            f"{page} records a run, expected a Python file like configs/quickstart.py; a run's own "
            "configuration is used by --mode=eval, predict and export with its --workdir"
        )
    spec = importlib.util.spec_from_file_location("a_config_file", page)
    if spec is None or spec.loader is None:
        raise InputError(f"{page}: expected a Python file, *.py, like configs/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise InputError(f"{page} has no function get_config, which configs/quickstart.py has")
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        raise InputError(f"{path}: get_config: {error}") from error
    config = get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"{page}: get_config returned {type(config).__name__}, expected a ConfigDict as "
            "configs/quickstart.py makes it"
        )
    return config
