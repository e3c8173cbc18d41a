"""Encoder weights from a .safetensors file into a student's variables."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from collabseg_jax.errors import InputError
from collabseg_jax.interop import torchvision

# model name: tensor name -> (collection, path...) below "backbone", or None
ENCODER_NAMES: dict[str, Callable] = {
    "deeplabv3plus_mobilenet_v2": torchvision.mobilenet_v2,
}


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"pretrained={path}: no such file, expected a .safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping: it has keys() but cannot be iterated)
    except (SafetensorError, OSError) as error:
        raise InputError(f"pretrained={path}: not a readable .safetensors file: {error}") from error


def load_pretrained(path, *, name: str, variables: dict) -> tuple[dict, str]:
    """A student's variables with the encoder's tensors replaced by those of a file.

    Convolution kernels go from torch's OIHW to HWIO.

    Args:
      path: .safetensors with torchvision's names.
      name: of the model, as in `models.MODELS`.
      variables: {"params", "batch_stats"} of that model; not changed.
    Returns:
      new variables, float32; and a line that says how many tensors were used, left out (the
      original's own classifier) and are fresh (our head).
    Raises:
      ValueError: the model has no converter, the file cannot be read, an encoder tensor is missing,
        or a shape differs.
    """
    path = Path(path).expanduser()
    if name not in ENCODER_NAMES:
        raise InputError(
            f"pretrained={path}: weights can be loaded into {', '.join(ENCODER_NAMES)}, not {name}"
        )
    flat = traverse_util.flatten_dict(variables)
    used, left_out = set(), []
    for tensor_name, tensor in _read(path).items():
        place = ENCODER_NAMES[name](tensor_name)
        if place is None:
            left_out.append(tensor_name)
            continue
        key = (place[0], "backbone", *place[1:])
        if tensor.ndim == 4:
            tensor = tensor.transpose(2, 3, 1, 0)
        if flat[key].shape != tensor.shape:
            raise InputError(
                f"pretrained={path}: tensor {tensor_name} gives {'/'.join(key)} the shape "
                f"{tensor.shape}, expected {flat[key].shape}"
            )
        flat[key] = jax.numpy.asarray(tensor, jax.numpy.float32)
        used.add(key)
    missing = sorted("/".join(k) for k in flat if k[1] == "backbone" and k not in used)
    if missing:
        raise InputError(
            f"pretrained={path}: {len(missing)} tensors of the encoder of {name} are not in the "
            f"file, the first is {missing[0]}"
        )
    some = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
    summary = (
        f"{name}: {len(used)} tensors of the encoder from {path}; {len(left_out)} left out "
        f"({some or 'none'}); {len(flat) - len(used)} of the head fresh"
    )
    return traverse_util.unflatten_dict(flat), summary
