"""ResNet's and MobileNetV2's tensors in torchvision, transformers, and smp's DeepLabV3Plus."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from collabseg_jax.errors import InputError
from collabseg_jax.interop.tensor_names import Config, Module, TensorNames

MAX_BLOCKS = 23  # of ResNet-101's third stage
Pairs = Iterable[tuple[str, str]]  # (path of our module, name of theirs)


def _torchvision_resnet() -> Iterator[tuple[str, str]]:
    yield "stem/conv", "conv1"
    yield "stem/norm", "bn1"
    for s in range(1, 5):
        for b in range(MAX_BLOCKS):
            ours, theirs = f"stage{s}_block{b + 1}", f"layer{s}.{b}"
            for i in (1, 2, 3):
                yield f"{ours}/conv{i}/conv", f"{theirs}.conv{i}"
                yield f"{ours}/conv{i}/norm", f"{theirs}.bn{i}"
            yield f"{ours}/downsample/conv", f"{theirs}.downsample.0"
            yield f"{ours}/downsample/norm", f"{theirs}.downsample.1"


def _transformers_resnet() -> Iterator[tuple[str, str]]:
    for ours, theirs in (("conv", "convolution"), ("norm", "normalization")):
        yield f"stem/{ours}", f"embedder.embedder.{theirs}"
        for s in range(4):
            for b in range(MAX_BLOCKS):
                here, there = f"stage{s + 1}_block{b + 1}", f"encoder.stages.{s}.layers.{b}"
                for i in range(3):
                    yield f"{here}/conv{i + 1}/{ours}", f"{there}.layer.{i}.{theirs}"
                yield f"{here}/downsample/{ours}", f"{there}.shortcut.{theirs}"


def _torchvision_mobilenet() -> Iterator[tuple[str, str]]:
    for i in (0, 18):
        ours = "features18" if i else "stem"
        yield f"{ours}/conv", f"features.{i}.0"
        yield f"{ours}/norm", f"features.{i}.1"
    for i in range(1, 18):
        parts = ("depthwise", "project") if i == 1 else ("expand", "depthwise", "project")
        for j, part in enumerate(parts):
            ours, theirs = f"features{i}/{part}", f"features.{i}.conv"
            last = part == "project"  # has no activation, and so no submodule of its own
            yield f"{ours}/conv", f"{theirs}.{j}" if last else f"{theirs}.{j}.0"
            yield f"{ours}/norm", f"{theirs}.{j + 1}" if last else f"{theirs}.{j}.1"


def _transformers_mobilenet() -> Iterator[tuple[str, str]]:
    blocks = {1: "conv_stem"} | {i: f"layer.{i - 2}" for i in range(2, 18)}
    parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    places = {"stem": "conv_stem.first_conv", "features18": "conv_1x1"}
    for i, block in blocks.items():
        places |= {f"features{i}/{ours}": f"{block}.{theirs}" for ours, theirs in parts.items()}
    for ours, theirs in places.items():
        yield f"{ours}/conv", f"{theirs}.convolution"
        yield f"{ours}/norm", f"{theirs}.normalization"


def _smp_head() -> Iterator[tuple[str, str]]:
    places = {"aspp/point": "aspp.0.convs.0", "aspp/project": "aspp.0.project"}
    places["reduce_low"] = "block1"
    for ours, theirs in places.items():
        yield f"{ours}/conv", f"decoder.{theirs}.0"
        yield f"{ours}/norm", f"decoder.{theirs}.1"
    yield "aspp/pool/conv", "decoder.aspp.0.convs.4.1"
    yield "aspp/pool/norm", "decoder.aspp.0.convs.4.2"
    threes = {f"aspp/atrous{i}": (f"aspp.0.convs.{i}.0", f"aspp.0.convs.{i}.1") for i in (1, 2, 3)}
    threes |= {"refine": ("aspp.1", "aspp.2"), "decoder1": ("block2.0", "block2.1")}
    for ours, (conv, norm) in threes.items():
        yield f"{ours}/depthwise", f"decoder.{conv}.0"
        yield f"{ours}/pointwise/conv", f"decoder.{conv}.1"
        yield f"{ours}/pointwise/norm", f"decoder.{norm}"
        yield f"{ours}/dense/conv", f"decoder.{conv}"
        yield f"{ours}/dense/norm", f"decoder.{norm}"
    yield "classifier", "segmentation_head.0"


def _modules(pairs: Pairs) -> dict[str, Module]:
    return {ours: Module(theirs) for ours, theirs in pairs}


def _resnet_config(config: Config) -> dict[str, Any]:
    config = config or {}
    _check_activation(config, "relu")
    if config.get("downsample_in_first_stage"):
        raise InputError(
            "downsample_in_first_stage is true, expected false: F1 is at stride 4 here"
        )
    return {"stride_in": "1x1" if config.get("downsample_in_bottleneck") else "3x3"}


def _mobilenet_config(config: Config) -> dict[str, Any]:
    _check_activation(config or {}, "relu6")
    if config is None or config.get("tf_padding", True):
        raise InputError(
            "tf_padding is true (or there is no config.json next to the weights that says), "
            "expected false: padding is symmetric here, as in torchvision"
        )
    return {"bn_eps": config.get("layer_norm_eps", 1e-3)}


def _check_activation(config: Mapping[str, Any], expected: str) -> None:
    if (activation := config.get("hidden_act", expected)) != expected:
        raise InputError(f"config.json has hidden_act={activation}, expected {expected}")


def _smp_config(config: Config) -> dict[str, Any]:
    config = config or {}
    names = {
        "encoder_output_stride": "output_stride",
        "decoder_atrous_rates": "atrous_rates",
        "decoder_aspp_separable": "separable",
    }
    options = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    return options | {k: tuple(v) for k, v in options.items() if k == "atrous_rates"}


_SMP: dict[str, Any] = {
    "prefixes": ("encoder.",),
    "head": _modules(_smp_head()),
    "options": {"decoder": "smp"},
    "head_needs": {"decoder": "smp"},
    "config": _smp_config,
}
RESNET_NAMES = (
    TensorNames(
        "torchvision ResNet",
        _modules(_torchvision_resnet()),
        "layer1.0.conv1.weight",
        ("", "backbone."),
        left_out=r"fc\.|decode_head\.|auxiliary_head\.",
    ),
    TensorNames(
        "transformers ResNet",
        _modules(_transformers_resnet()),
        "embedder.embedder.convolution.weight",
        ("resnet.", ""),
        left_out=r"classifier\.",
        config=_resnet_config,
    ),
    TensorNames(
        "segmentation-models-pytorch DeepLabV3Plus on ResNet",
        _modules(_torchvision_resnet()),
        "layer1.0.conv1.weight",
        left_out=r"classification_head\.",
        **_SMP,
    ),
)
MOBILENET_NAMES = (
    TensorNames(
        "torchvision MobileNetV2",
        _modules(_torchvision_mobilenet()),
        "features.0.0.weight",
        ("",),
        left_out=r"classifier\.|features\.18\.",
    ),
    TensorNames(
        "transformers MobileNetV2",
        _modules(_transformers_mobilenet()),
        "conv_stem.first_conv.convolution.weight",
        ("mobilenet_v2.", ""),
        left_out=r"classifier\.|conv_1x1\.|segmentation_head\.",
        config=_mobilenet_config,
    ),
    TensorNames(
        "segmentation-models-pytorch DeepLabV3Plus on MobileNetV2",
        _modules(_torchvision_mobilenet()),
        "features.0.0.weight",
        left_out=r"classification_head\.|features\.18\.",
        **_SMP,
    ),
)
