"""Weights of other tools into our students."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from collabseg_jax import models
from collabseg_jax.errors import InputError
from collabseg_jax.interop import files
from collabseg_jax.interop.cnn_names import MOBILENET_LAYOUTS, RESNET_LAYOUTS
from collabseg_jax.interop.layout import COUNTER, Layout, source, to_ours
from collabseg_jax.interop.mit_names import MIT_LAYOUTS

LAYOUTS = (*MIT_LAYOUTS, *RESNET_LAYOUTS, *MOBILENET_LAYOUTS)


def layouts_of(name: str) -> tuple[Layout, ...]:
    """The layouts whose encoder is that of the model `name`."""
    encoder = models.MODELS[name][1]
    if encoder == "mobilenet_v2":
        return MOBILENET_LAYOUTS
    return MIT_LAYOUTS if encoder in models.MITS else RESNET_LAYOUTS


def from_pretrained(path, *, name: str, num_classes: int | None = None, seed: int = 0, **options):
    """A student with weights from another tool.

    Args:
      path: a .safetensors, .pth, .pt or .bin file, or a directory as transformers or
        segmentation-models-pytorch save it. Which tool's it is, the tensor names tell.
      name: a key of `models.MODELS`.
      num_classes: K; None for the number of the file's own segmentation head.
      seed: for what the file does not have.
      **options: of `models.build`; those that the weights depend on (layer_norm_eps, decoder, ...)
        have the values of the tool they come from unless given here.
    Returns:
      (model, variables): a linen module, and {"params", "batch_stats"} in float32.
    Raises:
      ValueError: as `load_pretrained`, or no `num_classes` where the file has no head to tell it.
    """
    if name not in models.MODELS:
        models.build(name)  # raises
    weights = files.read(path)
    layout, prefix = _find(path, weights, name)
    origin = _origin(path, layout, prefix, weights)
    model = models.build(name, num_classes or 2, **origin | options)
    if num_classes is None:
        num_classes = _count_classes(path, layout, model, weights.tensors)
        model = model.clone(num_classes=num_classes)

    def init(without=()):
        images = jnp.zeros((1, 64, 64, 3))
        made = traverse_util.flatten_dict(model.init(jax.random.key(seed), images, train=False))
        return {key: made[key] for key in made.keys() - without}

    shapes = jax.eval_shape(init)
    new, _ = _fill(path, weights, layout, prefix, model, shapes)
    if shapes.keys() - new:  # the compiler drops what is not asked for
        new |= jax.jit(lambda: init(without=new.keys()))()
    return model, traverse_util.unflatten_dict(new)


def load_pretrained(path, *, name: str, model, variables: dict) -> tuple[dict, str]:
    """A student's variables with the tensors that a file has for them.

    An ImageNet classifier is left out. Of a segmentation head, all is used but the classifier if
    its number of classes is another one.

    Args:
      path: as in `from_pretrained`.
      name: of the model; model: the module; variables: its {"params", "batch_stats"}, not changed.
    Returns:
      new variables, float32; and a line that says what was used, left out, and stays fresh.
    Raises:
      ValueError: the file cannot be read, is of another architecture, lacks tensors, has some that
        the model has no place for, or of other shapes.
    """
    weights = files.read(path)
    layout, prefix = _find(path, weights, name)
    flat = traverse_util.flatten_dict(variables)
    new, summary = _fill(path, weights, layout, prefix, model, flat)
    return traverse_util.unflatten_dict(flat | new), summary


def _find(path, weights: files.Weights, name: str) -> tuple[Layout, str]:
    """The layout that the tensor names belong to, and the prefix of its encoder."""
    for layout in layouts_of(name):
        prefix = layout.prefix_in(weights.tensors)
        if prefix is not None:
            return layout, prefix
    others = [layout.tool for layout in LAYOUTS if layout.prefix_in(weights.tensors) is not None]
    first = ", ".join(sorted(weights.tensors)[:3])
    found = others[0] if others else f"{len(weights.tensors)} tensors of unknown origin ({first})"
    known = ", ".join(layout.tool for layout in layouts_of(name))
    raise InputError(f"pretrained={path}: holds {found}; {name} takes {known}")


def _origin(path, layout: Layout, prefix: str, weights: files.Weights) -> dict:
    """The options of `models.build` that the weights were made with."""
    try:
        origin = layout.options | layout.config(weights.config)
    except InputError as error:
        raise InputError(f"pretrained={path}: {error}") from error
    fuse = layout.head.get("decode_head/fuse")
    if fuse is not None and f"{fuse.name}.weight" in weights.tensors:
        origin["width"] = weights.tensors[f"{fuse.name}.weight"].shape[0]
    return origin


def _count_classes(path, layout: Layout, model, tensors) -> int:
    classifier = layout.head.get("classifier")
    if classifier is None or f"{classifier.name}.weight" not in tensors or not _fits(layout, model):
        raise InputError(
            f"pretrained={path}: has no segmentation head of ours that tells the number of "
            "classes, expected num_classes"
        )
    return tensors[f"{classifier.name}.weight"].shape[0]


def _fits(layout: Layout, model) -> bool:
    """Whether the model's head is the one that the layout names."""
    return all(getattr(model, option) == value for option, value in layout.head_needs.items())


def _fill(path, weights, layout: Layout, prefix: str, model, flat) -> tuple[dict, str]:
    """{key: array} of what the file has for the arrays (or shapes) `flat`, and the summary."""
    tensors = weights.tensors
    sources = {key: source(layout, prefix, key, value.shape) for key, value in flat.items()}
    wanted = _wanted(layout, model, sources, tensors)
    _check_complete(path, layout, [sources[key] or key for key in sorted(wanted)], tensors)
    new = {}
    for key in wanted:
        tensor = tensors[sources[key].tensor]
        if not np.isfinite(tensor).all():
            raise InputError(
                f"pretrained={path}: tensor {sources[key].tensor} holds NaN or infinity, expected "
                "finite numbers"
            )
        new[key] = jnp.asarray(to_ours(tensor, sources[key], flat[key].shape))
    used = {sources[key].tensor for key in wanted}
    left_out = set(tensors) - used
    _check_left_out(path, layout, prefix, left_out, tensors)
    every = [name for name in tensors if not name.endswith(COUNTER)]
    counters = len(tensors) - len(every)
    ours, filled, fresh = (
        [".".join(key[1:]) for key in keys] for keys in (flat, wanted, set(flat) - wanted)
    )
    parts = [
        f"{path} is of {layout.tool}: {len(used)} tensors used (for {_groups(filled, ours)})",
        f"{len(left_out)} left out ({_groups(left_out & set(every), every)}"
        f"{f'; {counters} {COUNTER}' if counters else ''})",
        f"{len(fresh)} of ours fresh ({_groups(fresh, ours)})",
    ]
    for option, value in _origin(path, layout, prefix, weights).items():
        if option in layout.head_needs or option == "width":  # seen in what is fresh, or in shapes
            continue
        # A model may leave the rates to its decoder.
        if (has := getattr(model, "rates" if option == "atrous_rates" else option)) != value:
            parts.append(f"they were made with {option}={value}, this model has {has}")
    return new, "; ".join(parts)


def _wanted(layout: Layout, model, sources, tensors) -> set:
    """Our arrays that the file has to give: the encoder, and the head if it has one of ours."""
    wanted = {key for key in sources if key[1] == "backbone"}
    head = {key for key in sources if key not in wanted}
    in_file = {key for key in head if sources[key] is not None and sources[key].tensor in tensors}
    if not in_file or not _fits(layout, model):
        return wanted
    classifier = {key for key in head if key[1] == "classifier"}
    if any(
        tensors[sources[k].tensor].shape[0] != sources[k].shape[0] for k in classifier & in_file
    ):
        head -= classifier  # another number of classes
    return wanted | head


def _check_complete(path, layout: Layout, sources, tensors) -> None:
    missing = [found for found in sources if getattr(found, "tensor", None) not in tensors]
    if missing:
        first = missing[0]
        where = f"{first.tensor} {first.shape}" if hasattr(first, "tensor") else "/".join(first)
        raise InputError(
            f"pretrained={path}: {len(missing)} tensors of {layout.tool} are missing, the first is "
            f"{where}"
        )
    for found in sources:
        shape = tensors[found.tensor].shape
        if shape != found.shape:
            raise InputError(
                f"pretrained={path}: tensor {found.tensor} has the shape {shape}, expected "
                f"{found.shape}"
            )


def _check_left_out(path, layout: Layout, prefix: str, names, tensors) -> None:
    """Everything that is not used must be known to be of no use."""
    head = {module.name for module in layout.head.values()}
    unknown = [
        name
        for name in sorted(names)
        if not layout.is_left_out(name, prefix) and name.rpartition(".")[0] not in head
    ]
    if unknown:
        raise InputError(
            f"pretrained={path}: {len(unknown)} tensors have no place in this model, the first is "
            f"{unknown[0]} {tensors[unknown[0]].shape}; is it another member of the family?"
        )


def _groups(names, every) -> str:
    """The shortest dotted prefixes that cover these names and none of the others."""
    names = set(names)
    others = [other + "." for other in every if other not in names]
    groups = []
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
