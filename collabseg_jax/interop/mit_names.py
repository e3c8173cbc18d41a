"""SegFormer's tensors in transformers (its older and its newer modules), NVlabs' code, and smp."""

from typing import Any

from collabseg_jax.errors import InputError
from collabseg_jax.interop.tensor_names import Config, Module, TensorNames
from collabseg_jax.models.mix_transformer import ATTENTION_HEADS

STAGES, MAX_BLOCKS = 4, 40

# {s}, {S}: the stage from 0 and from 1; {b}: the block from 0; [0], [1]: half of its rows;
# a star: a torch Linear. Columns: ours, transformers < 5.2x (and its files), later ones, NVlabs.
ENCODER = (
    ("patch_embed", "encoder.patch_embeddings.{s}.proj", "stages.{s}.patch_embeddings.proj",
     "patch_embed{S}.proj"),
    ("patch_norm", "encoder.patch_embeddings.{s}.layer_norm",
     "stages.{s}.patch_embeddings.layer_norm", "patch_embed{S}.norm"),
    ("norm", "encoder.layer_norm.{s}", "stages.{s}.layer_norm", "norm{S}"),
)  # fmt: skip
BLOCK_STARTS = ("encoder.block.{s}.{b}", "stages.{s}.blocks.{b}", "block{S}.{b}")
BLOCK = (
    ("norm1", "layer_norm_1", "layernorm_before", "norm1"),
    ("norm2", "layer_norm_2", "layernorm_after", "norm2"),
    ("attention/query*", "attention.self.query", "attention.q_proj", "attn.q"),
    ("attention/key*", "attention.self.key", "attention.k_proj", "attn.kv[0]"),
    ("attention/value*", "attention.self.value", "attention.v_proj", "attn.kv[1]"),
    ("attention/out*", "attention.output.dense", "attention.o_proj", "attn.proj"),
    ("attention/reduce", "attention.self.sr", "attention.sequence_reduction.sequence_reduction",
     "attn.sr"),
    ("attention/reduce_norm", "attention.self.layer_norm",
     "attention.sequence_reduction.layer_norm", "attn.norm"),
    ("ffn/fc1*", "mlp.dense1", "mlp.fc1", "mlp.fc1"),
    ("ffn/depthwise", "mlp.dwconv.dwconv", "mlp.dwconv.dwconv", "mlp.dwconv.dwconv"),
    ("ffn/fc2*", "mlp.dense2", "mlp.fc2", "mlp.fc2"),
)  # fmt: skip
# The same columns, and smp as the last. smp counts its projections from the last stage.
HEAD = (
    ("decode_head/fuse", "decode_head.linear_fuse", "decode_head.linear_fuse",
     "decode_head.linear_fuse.conv", "decoder.fuse_stage.0"),
    ("decode_head/norm", "decode_head.batch_norm", "decode_head.batch_norm",
     "decode_head.linear_fuse.bn", "decoder.fuse_stage.1"),
    ("classifier", "decode_head.classifier", "decode_head.classifier", "decode_head.linear_pred",
     "segmentation_head.0"),
)  # fmt: skip
PROJECTIONS = (
    "decode_head.linear_c.{s}.proj",
    "decode_head.linear_projections.{s}.proj",
    "decode_head.linear_c{S}.proj",
    "decoder.mlp_stage.{r}.linear",
)
OLD, NEW, NVLABS, SMP = range(4)
INVISIBLE = {
    "num_attention_heads": list(ATTENTION_HEADS),
    "strides": [4, 2, 2, 2],
    "hidden_act": "gelu",
}


def _encoder(column: int) -> dict[str, Module]:
    modules = {}
    for s in range(STAGES):
        at = {"s": s, "S": s + 1}
        for ours, *theirs in ENCODER:
            modules[f"stage{s + 1}/{ours}"] = Module(theirs[column].format(**at))
        for b in range(MAX_BLOCKS):
            start = BLOCK_STARTS[column].format(**at, b=b)
            for ours, *theirs in BLOCK:
                name, _, half = theirs[column].partition("[")
                modules[f"stage{s + 1}/block{b + 1}/{ours.rstrip('*')}"] = Module(
                    f"{start}.{name}", ours.endswith("*"), int(half[0]) if half else None
                )
    return modules


def _head(column: int) -> dict[str, Module]:
    modules = {ours: Module(theirs[column]) for ours, *theirs in HEAD}
    for s in range(STAGES):
        name = PROJECTIONS[column].format(s=s, S=s + 1, r=STAGES - 1 - s)
        modules[f"decode_head/project{s + 1}"] = Module(name, linear=True)
    return modules


def _transformers_config(config: Config) -> dict[str, Any]:
    """Refuses other values of what the shapes of the tensors do not show."""
    for key, value in INVISIBLE.items():
        theirs = (config or {}).get(key, value)
        if theirs != value:
            raise InputError(f"config.json has {key}={theirs}, expected {value}")
    return {}


_TRANSFORMERS: dict[str, Any] = {
    "prefixes": ("segformer.", ""),
    "left_out": r"classifier\.",  # of ImageNet
    "config": _transformers_config,
    "options": {"layer_norm_eps": 1e-5},  # nn.LayerNorm's own, whatever the config says
}
MIT_NAMES = (
    TensorNames(
        "transformers SegFormer",
        _encoder(OLD),
        "encoder.patch_embeddings.0.proj.weight",
        head=_head(OLD),
        **_TRANSFORMERS,
    ),
    TensorNames(
        "transformers SegFormer (with stages)",
        _encoder(NEW),
        "stages.0.patch_embeddings.proj.weight",
        head=_head(NEW),
        **_TRANSFORMERS,
    ),
    TensorNames(
        "NVlabs SegFormer",
        _encoder(NVLABS),
        "patch_embed1.proj.weight",
        ("backbone.", ""),
        head=_head(NVLABS),
        # mmsegmentation's unused classifier, and the classifier of ImageNet
        left_out=r"decode_head\.conv_seg\.|head\.|auxiliary_head\.",
        options={"layer_norm_eps": 1e-6},
    ),
    TensorNames(
        "segmentation-models-pytorch Segformer",
        _encoder(NVLABS),
        "patch_embed1.proj.weight",
        ("encoder.",),
        head=_head(SMP),
        left_out=r"classification_head\.",
        options={"layer_norm_eps": 1e-6, "align_corners": True},
    ),
)
