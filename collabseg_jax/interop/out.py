"""Students out to other tools."""

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

FORMATS = {
    "transformers": to_transformers,
    "smp": to_smp,
    "stablehlo": to_stablehlo,
    "onnx": to_onnx,
}


def to_pretrained(
    name: str,
    variables: dict,
    directory,
    *,
    format: str,
    class_names=None,
    palette=(),
    details: dict | None = None,
    size: tuple[int, int] = (512, 512),
    **options,
) -> None:
    """A student as a directory that another tool loads, with a card (`README.md`).

    Args:
      name: of the model, as in `models.MODELS`.
      variables: its {"params", "batch_stats"}.
      directory: new or empty; it is written whole or not at all.
      format: "transformers" (SegFormer), "smp" (DeepLabV3+ with decoder="smp"), "stablehlo" or
        "onnx" (needs jax2onnx).
      class_names: K names; None for "class 0", ...; palette: K times (r, g, b), or ().
      details: for the card, see `exported.write_card`.
      size: (height, width) that ONNX is fixed to.
      **options: those of `models.build` that the student was trained with.
    Raises:
      ValueError: unknown format, variables that are not this model's, a student that the tool
        cannot express, or a directory that exists or cannot be made.
      RunError: the disk is full.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    student = _student(name, variables, class_names, palette, options)
    more = {"size": tuple(size)} if format == "onnx" else {}
    with new_directory(directory) as folder:
        use = FORMATS[format](student, folder, **more)
        write_card(folder, student, use=use, details=details or {})


def _student(name, variables, class_names, palette, options) -> Student:
    variables = jax.tree.map(lambda x: np.asarray(x, np.float32), jax.device_get(dict(variables)))
    found = traverse_util.flatten_dict(variables)
    kernel = found.get(("params", "classifier", "kernel"))
    if kernel is None:
        raise InputError(f"variables of {name}: params/classifier/kernel is missing")
    num_classes = kernel.shape[-1]
    model = models.build(name, num_classes, **options | {"dtype": jnp.float32})
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    expected = traverse_util.flatten_dict(
        jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    )
    for key in sorted(expected.keys() | found.keys()):
        shapes = [tree[key].shape if key in tree else "absent" for tree in (found, expected)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"variables of {name}: {'/'.join(key)} is {shapes[0]}, expected {shapes[1]}"
            )
    names = tuple(class_names or (f"class {i}" for i in range(num_classes)))
    for what, given in (("class_names", names), ("palette", palette or names)):
        if len(given) != num_classes:
            raise InputError(f"{what} has {len(given)} entries, expected {num_classes}")
    return Student(name, model, variables, names, tuple(map(tuple, palette)))
