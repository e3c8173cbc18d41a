"""Students as directories that transformers and segmentation-models-pytorch load directly.

Neither library is needed to write them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from collabseg_jax.collab.augment import MEAN, STD
from collabseg_jax.errors import InputError
from collabseg_jax.interop.cnn_names import MOBILENET_NAMES, RESNET_NAMES
from collabseg_jax.interop.exported import Student, write_json, write_labels
from collabseg_jax.interop.mit_names import MIT_NAMES
from collabseg_jax.interop.tensor_names import COUNTER, TensorNames, their_tensor, to_theirs
from collabseg_jax.labels import IGNORE
from collabseg_jax.models import MITS, SegFormer
from collabseg_jax.models.mix_transformer import ATTENTION_HEADS, REDUCTIONS

WEIGHTS = "model.safetensors"


def state_dict(names: TensorNames, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a student by the names of a tool, with the counters that torch expects."""
    tensors = {}
    for key, value in traverse_util.flatten_dict(variables).items():
        theirs = their_tensor(names, names.prefixes[0], key, value.shape)
        assert theirs is not None, key  # callers check that the tool has the student's options
        tensors[theirs.name] = to_theirs(np.asarray(value, np.float32), theirs)
        if key[-1] == "var":
            counter = f"{theirs.name.rpartition('.')[0]}.{COUNTER}"
            tensors[counter] = np.zeros((), np.int64)
    return tensors


def require(student: Student, tool: str, needs: Mapping[str, Any]) -> None:
    """Raises InputError unless the options of the model are those that `tool` always has.

    Args:
      student: what is exported.
      tool: for the message.
      needs: {option: value}.
    """
    for option, value in needs.items():
        if (ours := getattr(student.model, option)) != value:
            raise InputError(
                f"{student.name} was trained with {option}={ours}, but {tool} has {value}: train "
                f"with {option}={value} to export to it"
            )


def to_transformers(student: Student, directory: Path) -> str:
    """Writes a directory for `SegformerForSemanticSegmentation` and `SegformerImageProcessor`.

    The names are the older ones (`encoder.block`), which every version of transformers reads.

    Args:
      student: a SegFormer.
      directory: where to write it; it exists.

    Returns:
      how to use it, Markdown.

    Raises:
      InputError: not a SegFormer, or trained with what transformers cannot express.
    """
    model = student.model
    if not isinstance(model, SegFormer):
        raise InputError(
            f"format=transformers takes a SegFormer, not {student.name}: transformers has no "
            "DeepLabV3+; expected format smp, stablehlo or onnx"
        )
    require(
        student,
        "transformers",
        {"layer_norm_eps": 1e-5, "bn_eps": 1e-5, "align_corners": False},
    )
    channels, depths = MITS[model.encoder]
    names = {str(i): name for i, name in enumerate(student.classes)}
    write_json(
        directory / "config.json",
        {
            "architectures": ["SegformerForSemanticSegmentation"],
            "model_type": "segformer",
            "num_channels": 3,
            "num_encoder_blocks": 4,
            "depths": list(depths),
            "hidden_sizes": list(channels),
            "num_attention_heads": list(ATTENTION_HEADS),
            "sr_ratios": list(REDUCTIONS),
            "patch_sizes": [7, 3, 3, 3],
            "strides": [4, 2, 2, 2],
            "mlp_ratios": [4, 4, 4, 4],
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "classifier_dropout_prob": model.dropout,
            "drop_path_rate": model.drop_path,
            "layer_norm_eps": model.layer_norm_eps,
            "initializer_range": 0.02,
            "decoder_hidden_size": student.variables["params"]["decode_head"]["fuse"].shape[1],
            "reshape_last_stage": True,
            "semantic_loss_ignore_index": IGNORE,
            "id2label": names,
            "label2id": {name: int(i) for i, name in names.items()},
            "torch_dtype": "float32",
        },
    )
    write_json(
        directory / "preprocessor_config.json",
        {
            "image_processor_type": "SegformerImageProcessor",
            "do_resize": False,  # the card says at which sizes it was scored
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
            "do_reduce_labels": False,
        },
    )
    save_file(
        state_dict(MIT_NAMES[0], student.variables),
        directory / WEIGHTS,
        metadata={"format": "pt"},
    )
    return """
```python
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

model = SegformerForSemanticSegmentation.from_pretrained("THIS DIRECTORY")
processor = SegformerImageProcessor.from_pretrained("THIS DIRECTORY")
outputs = model(**processor(images=image, return_tensors="pt"))
labels = processor.post_process_semantic_segmentation(outputs, [image.size[::-1]])[0]
```

The processor does not resize images; the sizes that the model was scored at are under Scores."""


def to_smp(student: Student, directory: Path) -> str:
    """Writes a directory for `segmentation_models_pytorch.from_pretrained`: DeepLabV3Plus.

    Args:
      student: a DeepLabV3+ with decoder="smp".
      directory: where to write it; it exists.

    Returns:
      how to use it, Markdown.

    Raises:
      InputError: not a DeepLabV3+, or trained with what smp cannot express.
    """
    model = student.model
    if isinstance(model, SegFormer):
        raise InputError(
            f"format=smp takes a DeepLabV3+, not {student.name}; expected format transformers, "
            "stablehlo or onnx"
        )
    require(
        student,
        "segmentation-models-pytorch",
        {"decoder": "smp", "bn_eps": 1e-5, "stem": "7x7", "stride_in": "3x3"},
    )
    names = MOBILENET_NAMES if model.encoder == "mobilenet_v2" else RESNET_NAMES
    write_json(
        directory / "config.json",
        {
            "_model_class": "DeepLabV3Plus",
            "encoder_name": model.encoder,
            "encoder_depth": 5,
            "encoder_weights": None,
            "encoder_output_stride": model.output_stride,
            "decoder_channels": 256,
            "decoder_atrous_rates": list(model.rates),
            "decoder_aspp_separable": model.separable,
            "decoder_aspp_dropout": model.head.aspp_dropout,
            "in_channels": 3,
            "classes": len(student.classes),
            "activation": None,
            "upsampling": 4,
            "aux_params": None,
        },
    )
    stride = model.output_stride
    write_labels(
        directory, student, input=f"float32 [B, 3, H, W], normalised, H and W divisible by {stride}"
    )
    save_file(state_dict(names[-1], student.variables), directory / WEIGHTS)
    return f"""
```python
import segmentation_models_pytorch as smp

model = smp.from_pretrained("THIS DIRECTORY").eval()
logits = model(images)  # float32 [B, 3, H, W], normalised -> [B, classes, H, W]
```

Height and width must be divisible by {stride}. `labels.json` has the classes, their colours, and
the mean and standard deviation for images in [0, 1]."""
