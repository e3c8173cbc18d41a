"""Reads the tensors of a file or directory of weights; never runs code that is stored in it."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from collabseg_jax.errors import InputError

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
# What a directory may hold, the preferred one first.
DIRECTORY_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
WRAPPERS = ("state_dict", "model")  # keys under which training programs keep the tensors


class Weights(NamedTuple):
    """The contents of a file or directory of weights.

    Attributes:
      tensors: {name: array}.
      config: the contents of config.json in the same directory; None if there is none.
    """

    tensors: dict[str, np.ndarray]
    config: dict[str, Any] | None


def read(path: str | os.PathLike) -> Weights:
    """The tensors of a .safetensors, .pth, .pt or .bin file, or of a directory with one of them.

    Args:
      path: a file, or a directory as transformers and smp save it, with one of `DIRECTORY_FILES`
        and config.json.

    Raises:
      InputError: no such file, not readable, or (torch's files) it holds objects that are not
        tensors. These are never unpickled.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        candidates = [path / name for name in DIRECTORY_FILES if (path / name).is_file()]
        if not candidates:
            raise InputError(
                f"pretrained={path}: no weights in this directory, expected one of "
                f"{', '.join(DIRECTORY_FILES)}"
            )
        path = candidates[0]
    if not path.is_file():
        raise InputError(
            f"pretrained={path}: no such file, expected .safetensors, "
            f"{', '.join(TORCH_SUFFIXES)} or a directory"
        )
    if path.suffix == ".json":
        tensors = _read_shards(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(path)
    else:
        tensors = _read_safetensors(path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Weights(tensors, _read_config(path.parent / "config.json"))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping: it has keys() but cannot be iterated)
    except (
        SafetensorError,
        OSError,
        AttributeError,
        TypeError,
    ) as error:  # the last two for float8
        raise InputError(f"pretrained={path}: not a readable .safetensors file: {error}") from error


def _read_shards(path: Path) -> dict[str, np.ndarray]:
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        files = [path.parent / name for name in shards]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"pretrained={path}: not a readable index of shards: {error}") from error
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        tensors |= _read_safetensors(file)
    return tensors


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"pretrained={path}: reading {path.suffix} needs PyTorch (pip install torch); a "
            ".safetensors file needs nothing"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile and torch, without a common parent
        reason = " ".join(str(error).split())
        if "weights_only" in reason or "Weights only" in reason:
            raise InputError(
                f"pretrained={path}: holds pickled objects that are not tensors, which could run "
                "any code and are not loaded; expected a file of tensors alone (save the model's "
                "state_dict as .safetensors where you trust it)"
            ) from error
        raise InputError(f"pretrained={path}: not a readable torch file: {reason}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise InputError(f"pretrained={path}: expected a dictionary of tensors (a state_dict)")
    try:
        return {
            name: (value.float() if value.is_floating_point() else value).detach().numpy()
            for name, value in content.items()
        }
    except (RuntimeError, TypeError) as error:  # sparse or quantised ones
        raise InputError(f"pretrained={path}: expected plain tensors: {error}") from error


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds {type(config).__name__}, expected an object")
    return config
