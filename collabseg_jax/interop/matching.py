"""Which tool a file of weights is from, and which of its tensors is which of our arrays."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from collabseg_jax import models
from collabseg_jax.errors import InputError
from collabseg_jax.interop import files
from collabseg_jax.interop.cnn_names import MOBILENET_NAMES, RESNET_NAMES
from collabseg_jax.interop.mit_names import MIT_NAMES
from collabseg_jax.interop.tensor_names import (
    COUNTER,
    Key,
    TensorNames,
    TheirTensor,
    their_tensor,
    to_ours,
)

ALL_NAMES = (*MIT_NAMES, *RESNET_NAMES, *MOBILENET_NAMES)
PathLike = str | os.PathLike
Shapes = Mapping[Key, Any]  # our arrays, or their shapes and dtypes


def names_of(name: str) -> tuple[TensorNames, ...]:
    """The tensor names of all tools that have the encoder of the model `name`."""
    encoder = models.MODELS[name][1]
    if encoder == "mobilenet_v2":
        return MOBILENET_NAMES
    return MIT_NAMES if encoder in models.MITS else RESNET_NAMES


def recognise(path: PathLike, weights: files.Weights, name: str) -> tuple[TensorNames, str]:
    """The tool that the tensor names belong to, and the prefix of its encoder."""
    for names in names_of(name):
        prefix = names.prefix_in(weights.tensors)
        if prefix is not None:
            return names, prefix
    others = [names.tool for names in ALL_NAMES if names.prefix_in(weights.tensors) is not None]
    first = ", ".join(sorted(weights.tensors)[:3])
    what = others[0] if others else f"{len(weights.tensors)} tensors of unknown origin ({first})"
    known = ", ".join(names.tool for names in names_of(name))
    raise InputError(f"pretrained={path}: holds {what}; {name} takes {known}")


def options_of(path: PathLike, names: TensorNames, weights: files.Weights) -> dict[str, Any]:
    """The options of `models.build` that the weights were made with."""
    try:
        options = {**names.options, **names.config(weights.config)}
    except InputError as error:
        raise InputError(f"pretrained={path}: {error}") from error
    fuse = names.head.get("decode_head/fuse")
    if fuse is not None and f"{fuse.name}.weight" in weights.tensors:
        options["width"] = weights.tensors[f"{fuse.name}.weight"].shape[0]
    return options


def count_classes(
    path: PathLike, names: TensorNames, model: nn.Module, tensors: Mapping[str, np.ndarray]
) -> int:
    """The number of classes of the file's segmentation head."""
    classifier = names.head.get("classifier")
    if classifier is None or f"{classifier.name}.weight" not in tensors or not _fits(names, model):
        raise InputError(
            f"pretrained={path}: has no segmentation head of ours that tells the number of "
            "classes, expected num_classes"
        )
    return tensors[f"{classifier.name}.weight"].shape[0]


def _fits(names: TensorNames, model: nn.Module) -> bool:
    """Whether the model's head is the one that has names."""
    return all(getattr(model, option) == value for option, value in names.head_needs.items())


def fill(
    path: PathLike,
    weights: files.Weights,
    names: TensorNames,
    prefix: str,
    model: nn.Module,
    flat: Shapes,
) -> tuple[dict[Key, jax.Array], str]:
    """What the file has for our arrays.

    Args:
      path: of the file, for messages.
      weights: its contents.
      names: of the tool that it is from.
      prefix: of its encoder.
      model: ours.
      flat: the variables of the model, or their shapes.

    Returns:
      {key: array}, and the summary that `load_pretrained` returns.

    Raises:
      InputError: tensors are missing, not finite, of other shapes, or have no place.
    """
    tensors = weights.tensors
    theirs = {key: their_tensor(names, prefix, key, value.shape) for key, value in flat.items()}
    wanted = _wanted(names, model, theirs, tensors)
    sources = _require_all(path, names, {key: theirs[key] for key in sorted(wanted)}, tensors)
    new = {}
    for key, source in sources.items():
        tensor = tensors[source.name]
        if not np.isfinite(tensor).all():
            raise InputError(
                f"pretrained={path}: tensor {source.name} holds NaN or infinity, expected finite "
                "numbers"
            )
        new[key] = jnp.asarray(to_ours(tensor, source, flat[key].shape))
    used = {source.name for source in sources.values()}
    left_out = set(tensors) - used
    _check_left_out(path, names, prefix, left_out, tensors)
    every = [name for name in tensors if not name.endswith(COUNTER)]
    counters = len(tensors) - len(every)
    ours, filled, fresh = (
        [".".join(key[1:]) for key in keys] for keys in (flat, wanted, set(flat) - wanted)
    )
    parts = [
        f"{path} is of {names.tool}: {len(used)} tensors used (for {_groups(filled, ours)})",
        f"{len(left_out)} left out ({_groups(left_out & set(every), every)}"
        f"{f'; {counters} {COUNTER}' if counters else ''})",
        f"{len(fresh)} of ours fresh ({_groups(fresh, ours)})",
    ]
    for option, value in options_of(path, names, weights).items():
        if option in names.head_needs or option == "width":  # seen in what is fresh, or in shapes
            continue
        # A model may leave the rates to its decoder.
        if (has := getattr(model, "rates" if option == "atrous_rates" else option)) != value:
            parts.append(f"they were made with {option}={value}, this model has {has}")
    return new, "; ".join(parts)


def _wanted(
    names: TensorNames,
    model: nn.Module,
    theirs: Mapping[Key, TheirTensor | None],
    tensors: Mapping[str, np.ndarray],
) -> set[Key]:
    """Our arrays that the file must have: the encoder, and the head if it has one of ours."""
    encoder = {key for key in theirs if key[1] == "backbone"}
    head = theirs.keys() - encoder
    in_file = {key: source for key in head if (source := theirs[key]) and source.name in tensors}
    if not in_file or not _fits(names, model):
        return encoder
    classifier = {key for key in head if key[1] == "classifier"}
    if any(
        tensors[in_file[key].name].shape[0] != in_file[key].shape[0]
        for key in classifier & in_file.keys()
    ):
        head -= classifier  # another number of classes
    return encoder | head


def _require_all(
    path: PathLike,
    names: TensorNames,
    wanted: Mapping[Key, TheirTensor | None],
    tensors: Mapping[str, np.ndarray],
) -> dict[Key, TheirTensor]:
    """Their tensors of our arrays; InputError unless the file has all, in the right shapes."""
    present = {key: source for key, source in wanted.items() if source and source.name in tensors}
    missing = [key for key in wanted if key not in present]
    if missing:
        first = wanted[missing[0]]
        where = f"{first.name} {first.shape}" if first else "/".join(missing[0])
        raise InputError(
            f"pretrained={path}: {len(missing)} tensors of {names.tool} are missing, the first is "
            f"{where}"
        )
    for source in present.values():
        shape = tensors[source.name].shape
        if shape != source.shape:
            raise InputError(
                f"pretrained={path}: tensor {source.name} has the shape {shape}, expected "
                f"{source.shape}"
            )
    return present


def _check_left_out(
    path: PathLike,
    names: TensorNames,
    prefix: str,
    left_out: Iterable[str],
    tensors: Mapping[str, np.ndarray],
) -> None:
    """InputError unless everything that is not used is known to be of no use."""
    head = {module.name for module in names.head.values()}
    unknown = [
        name
        for name in sorted(left_out)
        if not names.is_left_out(name, prefix) and name.rpartition(".")[0] not in head
    ]
    if unknown:
        raise InputError(
            f"pretrained={path}: {len(unknown)} tensors have no place in this model, the first is "
            f"{unknown[0]} {tensors[unknown[0]].shape}; is it another member of the family?"
        )


def _groups(names: Iterable[str], every: Iterable[str]) -> str:
    """The shortest dotted prefixes that cover these names and none of the others."""
    names = set(names)
    others = [other + "." for other in every if other not in names]
    groups: list[str] = []
    for name in sorted(names):
        if any((name + ".").startswith(group + ".") for group in groups):
            continue
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            group = ".".join(parts[:n])
            if not any(other.startswith(group + ".") for other in others):
                break
        groups.append(group)
    return ", ".join(groups) or "none"
