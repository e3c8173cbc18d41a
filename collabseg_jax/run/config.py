"""Reading a file of `configs/` as Python, outside the flags."""

import importlib.util


def load(path: str):
    """The config of FILE or FILE:ARGUMENT; an error in the file surfaces whole.

    Raises:
      ValueError: the file does not take this argument.
    """
    file, *arguments = path.split(":")
    spec = importlib.util.spec_from_file_location("a_config_file", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)
