"""How another tool names and shapes the tensors of one of our models."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
COUNTER = "num_batches_tracked"  # torch's BatchNorm counts its batches; nothing here needs it


class Module(NamedTuple):
    """Another tool's counterpart of one of our layers.

    Attributes:
      name: of its module, without the prefix of the encoder.
      linear: the weight is [out, in] (torch Linear), not [out, in, k, k] (torch Conv2d).
      half: our layer is the first (0) or second (1) half of its rows.
    """

    name: str
    linear: bool = False
    half: int | None = None


class Layout(NamedTuple):
    """The tensor names of one tool for one kind of encoder, and for its head if it has ours.

    Attributes:
      tool: for people.
      encoder, head: {our module path below "backbone", or at the top: Module}, literal names.
      signature: a tensor of the encoder (without prefix) that only this layout has.
      prefixes: what may stand before the names of the encoder; the first is what is written.
      left_out: pattern of tensors (without prefix) that have no place here, and need none.
      options: {option of `models.build`: value} that these weights were made with.
      head_needs: {option: value} without which `head` does not fit our model.
      config: (dict of the tool's config.json or None) -> further options of `models.build`.
    """

    tool: str
    encoder: dict[str, Module]
    signature: str
    prefixes: tuple[str, ...]
    head: dict[str, Module] = {}
    left_out: str = ""
    options: dict = {}
    head_needs: dict = {}
    config: Callable = lambda _: {}

    def prefix_in(self, tensors) -> str | None:
        """The prefix that the encoder has among these tensor names; None if it is not there."""
        for prefix in self.prefixes:
            if prefix + self.signature in tensors:
                return prefix
        return None

    def is_left_out(self, name: str, prefix: str) -> bool:
        """Whether a tensor is known to have no place here."""
        name = name.removeprefix(prefix)
        return name.endswith(COUNTER) or bool(re.match(self.left_out or "$^", name))


class Source(NamedTuple):
    """Where the value of one of our arrays is in a file.

    Attributes:
      tensor: its name; shape: the shape it must have there; module: see `Module`.
    """

    tensor: str
    shape: tuple[int, ...]
    module: Module


def source(layout: Layout, prefix: str, key: tuple[str, ...], shape) -> Source | None:
    """The source of our array `key` (collection, path...) of `shape`; None if it has none."""
    path, leaf = _split(key)
    in_encoder = path[0] == "backbone"
    table = layout.encoder if in_encoder else layout.head
    module = table.get("/".join(path[1:] if in_encoder else path))
    if module is None:
        return None
    name = f"{prefix if in_encoder else ''}{module.name}.{LEAVES[key[0], leaf]}"
    return Source(name, _their_shape(module, leaf, tuple(shape)), module)


def _split(key) -> tuple[tuple[str, ...], str]:
    """(path of the layer, leaf); the head's matrices carry their leaf in their own name."""
    *path, leaf = key[1:]
    if (key[0], leaf) in LEAVES:
        return tuple(path), leaf
    name, _, leaf = leaf.rpartition("_")
    return ((*path, name), leaf) if name else ((*path, leaf), "kernel")


def _their_shape(module: Module, leaf: str, shape: tuple) -> tuple:
    if leaf == "kernel":
        *window, cin, cout = shape
        window = (1, 1) if not window else tuple(window)
        shape = (cout, cin) if module.linear else (cout, cin, *window)
    return (shape[0] * 2, *shape[1:]) if module.half is not None else shape


def to_ours(tensor: np.ndarray, found: Source, shape) -> np.ndarray:
    """A tensor of a file as our array of `shape`, float32."""
    if found.module.half is not None:
        tensor = np.split(tensor, 2)[found.module.half]
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    return np.asarray(tensor, np.float32).reshape(shape)


def to_theirs(array: np.ndarray, found: Source) -> np.ndarray:
    """The way back of `to_ours`, for layers that are not halves."""
    if len(found.shape) == 4:
        array = array.reshape(*found.shape[2:], *found.shape[1::-1]).transpose(3, 2, 0, 1)
    elif len(found.shape) == 2:
        array = array.reshape(found.shape[::-1]).T
    return np.ascontiguousarray(array)
