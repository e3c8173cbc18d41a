"""Loads the weights of other tools into our students."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from collabseg_jax import models
from collabseg_jax.interop import files
from collabseg_jax.interop.matching import PathLike, count_classes, fill, options_of, recognise
from collabseg_jax.interop.tensor_names import Key


def from_pretrained(
    path: PathLike, *, name: str, num_classes: int | None = None, seed: int = 0, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """Builds a student with weights from another tool.

    Args:
      path: a .safetensors, .pth, .pt or .bin file, or a directory as transformers or
        segmentation-models-pytorch save it. The tensor names tell which tool it is from.
      name: of the model, a key of `models.MODELS`.
      num_classes: K; None for the number of the file's own segmentation head.
      seed: of the initial values of what the file does not have.
      **options: of `models.build`; those that the weights depend on (layer_norm_eps, decoder, ...)
        default to the values of the tool they come from.

    Returns:
      (model, variables): a linen module, and {"params", "batch_stats"} in float32.

    Raises:
      InputError: as `load_pretrained`, or no `num_classes` where the file has no head to tell it.

    Example:
      >>> import tempfile
      >>> import jax, numpy as np
      >>> from collabseg_jax import interop, models
      >>> model, image = models.build("segformer_b0", 3), np.zeros((1, 64, 64, 3))
      >>> shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
      >>> variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     interop.to_pretrained(
      ...         "segformer_b0", variables, f"{folder}/b0", format="transformers"
      ...     )
      ...     model, variables = interop.from_pretrained(f"{folder}/b0", name="segformer_b0")
      >>> model.num_classes, sorted(variables)
      (3, ['batch_stats', 'params'])
    """
    if name not in models.MODELS:
        models.build(name)  # raises
    weights = files.read(path)
    names, prefix = recognise(path, weights, name)
    origin = options_of(path, names, weights)
    model = models.build(name, num_classes or 2, **origin | options)
    if num_classes is None:
        num_classes = count_classes(path, names, model, weights.tensors)
        model = model.clone(num_classes=num_classes)

    def init(without: Collection[Key] = ()) -> dict[Key, jax.Array]:
        images = jnp.zeros((1, 64, 64, 3))
        created = traverse_util.flatten_dict(model.init(jax.random.key(seed), images, train=False))
        return {key: created[key] for key in created if key not in without}

    shapes = jax.eval_shape(init)
    new, _ = fill(path, weights, names, prefix, model, shapes)
    if shapes.keys() - new:  # the compiler removes what is not returned
        new |= jax.jit(lambda: init(without=new.keys()))()
    return model, traverse_util.unflatten_dict(new)


def load_pretrained(
    path: PathLike, *, name: str, model: nn.Module, variables: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Replaces those of a student's variables that a file has.

    An ImageNet classifier is left out. A segmentation head is used, but without its classifier if
    that has another number of classes.

    Args:
      path: as in `from_pretrained`.
      name: of the model, a key of `models.MODELS`.
      model: the module.
      variables: its {"params", "batch_stats"}; not changed.

    Returns:
      (variables, summary): new variables in float32; and a line that says what was used, what was
        left out, and what keeps its value.

    Raises:
      InputError: the file cannot be read, is of another architecture, lacks tensors, has some that
        the model has no place for, or of other shapes.

    Example:
      >>> import tempfile
      >>> import jax, numpy as np
      >>> from collabseg_jax import interop, models
      >>> model, image = models.build("segformer_b0", 3), np.zeros((1, 64, 64, 3))
      >>> shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
      >>> zeros, ones = (
      ...     jax.tree.map(lambda leaf: np.full(leaf.shape, value), shapes) for value in (0.0, 1.0)
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     interop.to_pretrained("segformer_b0", ones, f"{folder}/b0", format="transformers")
      ...     variables, summary = interop.load_pretrained(
      ...         f"{folder}/b0", name="segformer_b0", model=model, variables=zeros
      ...     )
      >>> summary.partition(": ")[2].partition(";")[0]
      '207 tensors used (for backbone, classifier, decode_head)'
      >>> float(variables["params"]["classifier"]["bias"].sum())
      3.0
    """
    weights = files.read(path)
    names, prefix = recognise(path, weights, name)
    flat = traverse_util.flatten_dict(variables)
    new, summary = fill(path, weights, names, prefix, model, flat)
    return traverse_util.unflatten_dict(flat | new), summary
