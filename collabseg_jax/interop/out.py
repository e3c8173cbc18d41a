"""Writes our students for other tools."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from collabseg_jax import models
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.interop.directory import new_directory
from collabseg_jax.interop.exported import Student, write_card
from collabseg_jax.interop.jax_out import to_onnx, to_stablehlo
from collabseg_jax.interop.torch_out import to_smp, to_transformers

# Each takes a `Student` and a directory, writes its files there, and returns how to use them.
FORMATS: dict[str, Callable[..., str]] = {
    "transformers": to_transformers,
    "smp": to_smp,
    "stablehlo": to_stablehlo,
    "onnx": to_onnx,
}


def to_pretrained(
    name: str,
    variables: Mapping[str, Any],
    directory: str | os.PathLike,
    *,
    format: str,
    class_names: Sequence[str] | None = None,
    palette: Sequence[Sequence[int]] = (),
    details: Mapping[str, Any] | None = None,
    size: tuple[int, int] = (512, 512),
    **options: Any,
) -> None:
    """Writes a student as a directory that another tool loads, with a card (`README.md`).

    Args:
      name: of the model, a key of `models.MODELS`.
      variables: its {"params", "batch_stats"}.
      directory: new or empty; it is written whole or not at all.
      format: "transformers" (SegFormer), "smp" (DeepLabV3+ with decoder="smp"), "stablehlo" or
        "onnx" (needs jax2onnx).
      class_names: K names; None for "class 0", ...
      palette: K times (r, g, b) in 0..255, or ().
      details: for the card, see `exported.write_card`.
      size: (height, width) in pixels that ONNX is fixed to, at least 32 each.
      **options: those of `models.build` that the student was trained with.

    Raises:
      InputError: unknown format, variables that are not this model's, a student that the tool
        cannot express, or a directory that exists or cannot be made.
      RunError: the disk is full, or the converted ONNX graph does not compute the same.

    Example:
      >>> import os, tempfile
      >>> import jax, numpy as np
      >>> from collabseg_jax import interop, models
      >>> model, image = models.build("segformer_b0", 3), np.zeros((1, 64, 64, 3))
      >>> shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
      >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)  # or trained ones
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     interop.to_pretrained(
      ...         "segformer_b0", variables, f"{folder}/b0", format="transformers",
      ...         class_names=("sky", "road", "car"),
      ...     )
      ...     sorted(os.listdir(f"{folder}/b0"))
      ['README.md', 'config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    student = _student(name, variables, class_names, palette, options)
    more = {"size": tuple(size)} if format == "onnx" else {}
    with new_directory(directory) as folder:
        use = FORMATS[format](student, folder, **more)
        write_card(folder, student, use=use, details=details or {})


def _student(
    name: str,
    variables: Mapping[str, Any],
    class_names: Sequence[str] | None,
    palette: Sequence[Sequence[int]],
    options: dict[str, Any],
) -> Student:
    """The arguments of `to_pretrained` as a `Student`; InputError if they do not fit together."""
    arrays = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.device_get(dict(variables)))
    given = traverse_util.flatten_dict(arrays)
    kernel = given.get(("params", "classifier", "kernel"))
    if kernel is None:
        raise InputError(f"variables of {name}: params/classifier/kernel is missing")
    num_classes = kernel.shape[-1]
    model = models.build(name, num_classes, **options | {"dtype": jnp.float32})
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    expected = traverse_util.flatten_dict(
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    )
    for key in sorted(expected.keys() | given.keys()):
        shapes = [tree[key].shape if key in tree else "absent" for tree in (given, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"variables of {name}: {'/'.join(key)} is {shapes[0]}, expected {shapes[1]}"
            )
    names = tuple(class_names or (f"class {i}" for i in range(num_classes)))
    for what, count in (("class_names", len(names)), ("palette", len(palette or names))):
        if count != num_classes:
            raise InputError(f"{what} has {count} entries, expected {num_classes}")
    return Student(name, model, arrays, names, tuple((r, g, b) for r, g, b in palette))
