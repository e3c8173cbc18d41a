"""The students and the bridges between them. Start with `build`; all names are literals."""

from typing import Any

from collabseg_jax.errors import InputError, unknown
from collabseg_jax.models.bridges import Bridges
from collabseg_jax.models.deeplab import DECODERS, DeepLabV3Plus
from collabseg_jax.models.mix_transformer import MITS
from collabseg_jax.models.outputs import SegOutput
from collabseg_jax.models.resnet import RESNETS, STEMS, STRIDE_PLACES
from collabseg_jax.models.segformer import HEAD_FORMS, SegFormer

CHOICES = {
    "decoder": tuple(DECODERS),
    "stem": STEMS,
    "stride_in": STRIDE_PLACES,
    "head": HEAD_FORMS,
    "dropout_kind": ("channel", "element"),
}

# name: (module class, encoder)
MODELS: dict[str, tuple[Any, str]] = {
    "deeplabv3plus_resnet18": (DeepLabV3Plus, "resnet18"),
    "deeplabv3plus_resnet34": (DeepLabV3Plus, "resnet34"),
    "deeplabv3plus_resnet50": (DeepLabV3Plus, "resnet50"),
    "deeplabv3plus_resnet101": (DeepLabV3Plus, "resnet101"),
    "deeplabv3plus_mobilenet_v2": (DeepLabV3Plus, "mobilenet_v2"),
    "segformer_b0": (SegFormer, "b0"),
    "segformer_b1": (SegFormer, "b1"),
    "segformer_b2": (SegFormer, "b2"),
    "segformer_b3": (SegFormer, "b3"),
    "segformer_b4": (SegFormer, "b4"),
    "segformer_b5": (SegFormer, "b5"),
}


def build(name: str, num_classes: int = 21, **options: Any) -> DeepLabV3Plus | SegFormer:
    """Build a student by name.

    Args:
      name: a key of `MODELS`.
      num_classes: K, at least 2.
      **options: attributes of `DeepLabV3Plus` or `SegFormer` (output_stride, separable, head,
        dropout, drop_path, dtype, ...).

    Returns:
      A linen module, __call__(images, *, train) -> SegOutput.

    Raises:
      InputError: an unknown name, an unknown option, or an invalid value.

    Example:
      >>> import jax
      >>> from jax import numpy as jnp
      >>> from collabseg_jax import models
      >>> model = models.build("segformer_b0", num_classes=3, drop_path=0.0)
      >>> images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
      >>> output, variables = jax.eval_shape(
      ...     lambda x: model.init_with_output(jax.random.key(0), x, train=False), images
      ... )
      >>> output.logits.shape
      (1, 16, 16, 3)
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    module, encoder = MODELS[name]
    valid = set(module.__dataclass_fields__) - {"encoder", "num_classes", "parent", "name"}
    for option in options:
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}, expected at least 2")
    for option, choices in CHOICES.items():
        if option in options and options[option] not in choices:
            raise unknown(f"{option} of {name}", options[option], choices)
    if module is DeepLabV3Plus:
        _check_deeplab(name, encoder, options)
    for option in ("layer_norm_eps", "bn_eps"):
        if not 0 < options.get(option, 1e-5) < 1:
            raise InputError(f"{option} is {options[option]}, expected more than 0 and less than 1")
    for option in ("bn_momentum", "dropout", "drop_path"):
        if not 0 <= options.get(option, 0) < 1:
            raise InputError(f"{option} is {options[option]}, expected 0 or more and less than 1")
    if options.get("width", 0) < 0:
        raise InputError(f"width is {options['width']}, expected at least 1, or 0 for the paper's")
    return module(encoder=encoder, num_classes=num_classes, **options)


def _check_deeplab(name: str, encoder: str, options: dict[str, Any]) -> None:
    decoder = options.get("decoder", "paper")
    stride, strides = options.get("output_stride", 16), DECODERS[decoder].atrous_rates
    if stride not in strides:
        valid = ", ".join(map(str, strides))
        raise InputError(f"output_stride is {stride}, expected one of {valid} (decoder={decoder})")
    rates = tuple(options.get("atrous_rates", ()))
    if rates and (len(rates) != 3 or min(rates) < 1):
        raise InputError(f"atrous_rates is {rates}, expected three of at least 1, or ()")
    if encoder == "mobilenet_v2":
        for option, only in (("stem", "7x7"), ("stride_in", "3x3")):
            if options.get(option, only) != only:
                raise InputError(
                    f"{option} is {options[option]!r}, expected {only!r}: {name} has no such choice"
                )


__all__ = [
    "MITS",
    "MODELS",
    "RESNETS",
    "Bridges",
    "DeepLabV3Plus",
    "SegFormer",
    "SegOutput",
    "build",
]
