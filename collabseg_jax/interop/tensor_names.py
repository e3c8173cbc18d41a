"""How another tool names and shapes the tensors of one of our models."""

import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
COUNTER = "num_batches_tracked"  # torch's BatchNorm counts its batches; nothing here needs it
Key = tuple[str, ...]  # of one of our arrays: its collection, then its path
Config = Mapping[str, Any] | None  # what a tool's config.json says; None if there is no such file


class Module(NamedTuple):
    """Another tool's counterpart of one of our layers.

    Attributes:
      name: of its module, without the prefix of the encoder.
      linear: the weight is [out, in] (torch Linear), not [out, in, k, k] (torch Conv2d).
      half: our layer is the first (0) or second (1) half of its rows; None: all of them.
    """

    name: str
    linear: bool = False
    half: int | None = None


class TensorNames(NamedTuple):
    """One tool's names of the tensors of one kind of encoder, and of its head if it has ours.

    Attributes:
      tool: what messages call it.
      encoder: {path of our module below "backbone": its counterpart}, literal names.
      signature: a tensor of the encoder (without prefix) that only this tool has.
      prefixes: what may precede the names of the encoder; the first is what we write.
      head: {path of our module from the top: its counterpart}, literal names.
      left_out: pattern of tensors (without prefix) that have no place here, and need none.
      options: {option of `models.build`: value} that these weights were made with.
      head_needs: {option: value} without which `head` does not fit our model.
      config: reads further options of `models.build` from the tool's config.json.
    """

    tool: str
    encoder: Mapping[str, Module]
    signature: str
    prefixes: tuple[str, ...]
    head: Mapping[str, Module] = {}
    left_out: str = ""
    options: Mapping[str, Any] = {}
    head_needs: Mapping[str, Any] = {}
    config: Callable[[Config], dict[str, Any]] = lambda _: {}

    def prefix_in(self, tensors: Container[str]) -> str | None:
        """The prefix of the encoder in these tensor names; None if they are not this tool's."""
        for prefix in self.prefixes:
            if prefix + self.signature in tensors:
                return prefix
        return None

    def is_left_out(self, name: str, prefix: str) -> bool:
        """Whether a tensor is known to have no place here."""
        name = name.removeprefix(prefix)
        return name.endswith(COUNTER) or bool(re.match(self.left_out or "$^", name))


class TheirTensor(NamedTuple):
    """The tensor of a file that holds one of our arrays.

    Attributes:
      name: of the tensor, with the prefix of the encoder.
      shape: that it must have.
      module: which it belongs to.
    """

    name: str
    shape: tuple[int, ...]
    module: Module


def their_tensor(
    names: TensorNames, prefix: str, key: Key, shape: tuple[int, ...]
) -> TheirTensor | None:
    """The tensor that holds one of our arrays; None if the tool has none.

    Args:
      names: of the tool.
      prefix: of its encoder, see `TensorNames.prefix_in`.
      key: of our array.
      shape: of our array.
    """
    path, leaf = _split(key)
    in_encoder = path[0] == "backbone"
    table = names.encoder if in_encoder else names.head
    module = table.get("/".join(path[1:] if in_encoder else path))
    if module is None:
        return None
    name = f"{prefix if in_encoder else ''}{module.name}.{LEAVES[key[0], leaf]}"
    return TheirTensor(name, _their_shape(module, leaf, tuple(shape)), module)


def _split(key: Key) -> tuple[tuple[str, ...], str]:
    """(path of the layer, leaf); the head's matrices have their leaf in their own name."""
    *path, leaf = key[1:]
    if (key[0], leaf) in LEAVES:
        return tuple(path), leaf
    name, _, leaf = leaf.rpartition("_")
    return ((*path, name), leaf) if name else ((*path, leaf), "kernel")


def _their_shape(module: Module, leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if leaf == "kernel":
        *window, cin, cout = shape
        shape = (cout, cin) if module.linear else (cout, cin, *(window or (1, 1)))
    return (shape[0] * 2, *shape[1:]) if module.half is not None else shape


def to_ours(tensor: np.ndarray, theirs: TheirTensor, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a file as our array of `shape`, float32."""
    if theirs.module.half is not None:
        tensor = np.split(tensor, 2)[theirs.module.half]
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return np.asarray(tensor, np.float32).reshape(shape)


def to_theirs(array: np.ndarray, theirs: TheirTensor) -> np.ndarray:
    """The inverse of `to_ours`, for layers that are not halves."""
    if len(theirs.shape) == 4:
        array = array.reshape(*theirs.shape[2:], *theirs.shape[1::-1]).transpose(3, 2, 0, 1)
    elif len(theirs.shape) == 2:
        array = array.reshape(theirs.shape[::-1]).T
    return np.ascontiguousarray(array)
