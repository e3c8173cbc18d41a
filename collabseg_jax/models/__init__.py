"""The students and the bridges between them. `build` is the way in; names are literal."""

from collabseg_jax.errors import InputError, unknown
from collabseg_jax.models.bridges import Bridges
from collabseg_jax.models.deeplab import ATROUS_RATES, DeepLabV3Plus
from collabseg_jax.models.mix_transformer import MITS
from collabseg_jax.models.outputs import SegOutput
from collabseg_jax.models.resnet import RESNETS
from collabseg_jax.models.segformer import SegFormer

# name: (module, encoder)
MODELS = {
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


def build(name: str, num_classes: int = 21, **options):
    """A student by name.

    Args:
      name: a key of `MODELS`.
      num_classes: K, >= 2.
      **options: attributes of `DeepLabV3Plus` or `SegFormer` (output_stride, separable, head,
        dropout, drop_path, dtype, ...).
    Returns:
      a linen module, __call__(images, *, train) -> SegOutput.
    Raises:
      ValueError: unknown name, unknown option, or a value that cannot be.
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
    if options.get("output_stride", 16) not in ATROUS_RATES:
        raise InputError(f"output_stride is {options['output_stride']}, expected 8, 16 or 32")
    rates = tuple(options.get("atrous_rates", ()))
    if rates and (len(rates) != 3 or min(rates) < 1):
        raise InputError(f"atrous_rates is {rates}, expected three of at least 1, or ()")
    if options.get("head", "folded") not in ("folded", "plain"):
        raise InputError(f"head is {options['head']!r}, expected 'folded' or 'plain'")
    return module(encoder=encoder, num_classes=num_classes, **options)


__all__ = [
    "MITS",
    "MODELS",
    "RESNETS",
    "Bridges",
    "SegOutput",
    "build",
]
