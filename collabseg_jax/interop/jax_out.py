"""Students as StableHLO (one artefact for CPUs, GPUs and TPUs) and as ONNX."""

import logging
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from collabseg_jax import ops
from collabseg_jax.collab import augment
from collabseg_jax.errors import InputError, RunError
from collabseg_jax.interop.exported import Student, write_labels
from collabseg_jax.models import SegFormer

PLATFORMS = ("cpu", "cuda", "tpu")
ARTEFACT, LOADER, ONNX = "model.stablehlo", "load.py", "model.onnx"
MIN_SIZE = 32
ONNX_TOLERANCE = 1e-4
LOADER_TEXT = '''"""Runs the exported model; needs only `pip install jax flatbuffers`."""

import json
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

HERE = Path(__file__).parent
LABELS = json.loads((HERE / "labels.json").read_text())  # classes, palette, multiple_of
_model = jax.export.deserialize(bytearray((HERE / "model.stablehlo").read_bytes()))


@jax.jit
def logits(images):
    """uint8 [B, H, W, 3] RGB, sides multiples of LABELS["multiple_of"] -> float32 [B, H, W, K]."""
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise TypeError(f"images are {images.dtype}, expected uint8 (0 to 255)")
    return _model.call(images)
'''


def _function(student: Student):
    """images uint8 [B, H, W, 3] -> logits float32 [B, H, W, K], the weights inside."""

    def logits(images):
        output = student.model.apply(student.variables, augment.normalize(images), train=False)
        return output.logits_at(images.shape[1:3])

    return logits


def to_stablehlo(student: Student, directory: Path) -> str:
    """`model.stablehlo`, `load.py`, `labels.json`.

    The artefact takes uint8 [B, H, W, 3] of any batch and size and gives logits of that size. The
    sides must be at least 32, and for a SegFormer multiples of 32, as its spatial reductions and
    strides divide them.

    Returns:
      how to use it, Markdown.
    """
    if isinstance(student.model, SegFormer):
        multiple, dims, constraints = 32, "b, 32*h, 32*w, 3", ()
    else:
        multiple, dims = 1, "b, h, w, 3"
        constraints = (f"h >= {MIN_SIZE}", f"w >= {MIN_SIZE}")
    shape = jax.export.symbolic_shape(dims, constraints=constraints)
    with ops.using("plain"):
        exported = jax.export.export(jax.jit(_function(student)), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct(shape, jnp.uint8)
        )
    (directory / ARTEFACT).write_bytes(exported.serialize())
    (directory / LOADER).write_text(LOADER_TEXT)
    write_labels(
        directory, student, input="uint8 [B, H, W, 3] RGB", multiple_of=multiple, min_size=MIN_SIZE
    )
    return f"""
```python
from load import LABELS, logits  # load.py lies beside this file

classes = logits(images).argmax(-1)  # uint8 [B, H, W, 3] RGB -> [B, H, W]
```

The artefact runs on {", ".join(PLATFORMS)} and needs only JAX and flatbuffers. It normalises the
images itself and takes any batch and size, sides at least {MIN_SIZE} and multiples of {multiple}.
`labels.json` has the classes and their colours."""


def to_onnx(student: Student, directory: Path, *, size: tuple[int, int]) -> str:
    """`model.onnx` for one image of one size, and `labels.json`.

    Args:
      student: what leaves; directory: where.
      size: (height, width), at least 32 each.
    Returns:
      how to use it, Markdown.
    Raises:
      ValueError: jax2onnx is not installed, or the size cannot be.
      RunError: the converted graph does not compute what the model does.
    """
    if len(size) != 2 or min(size) < MIN_SIZE:
        raise InputError(
            f"export size {tuple(size)}: expected (height, width) of at least {MIN_SIZE}"
        )
    logging.getLogger("jax2onnx").setLevel(logging.ERROR)  # tracebacks of plugins we do not use
    try:
        import onnx
        import onnxruntime
        from jax2onnx import to_onnx as convert
    except ImportError as error:
        raise InputError(
            f"format=onnx needs jax2onnx, which is not installed ({error}); expected pip install "
            "-e '.[onnx]'"
        ) from error
    shape = (1, *size, 3)
    with ops.using("plain"):
        graph = convert(
            _function(student),
            [jax.ShapeDtypeStruct(shape, jnp.uint8)],
            model_name=student.name,
        )
    onnx.save_model(graph, directory / ONNX)
    onnxruntime.set_default_logger_severity(3)  # it complains about shapes that it infers anew
    session = onnxruntime.InferenceSession(directory / ONNX, providers=["CPUExecutionProvider"])
    _check_onnx(student, session, shape)
    write_labels(directory, student, input=f"uint8 {list(shape)} RGB")
    return f"""
```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{session.get_inputs()[0].name: images}})  # uint8 {list(shape)} RGB
```

The model normalises the images itself. `labels.json` has the classes and their colours."""


def _check_onnx(student: Student, session, shape) -> None:
    """Run the graph beside the model: the converter has been seen to drop a padding silently."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    with jax.default_matmul_precision("highest"):  # GPUs and TPUs round what they multiply
        expected = np.asarray(jax.jit(_function(student))(images))
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    if not difference <= ONNX_TOLERANCE:
        raise RunError(
            f"the ONNX graph of {student.name} differs from the model by {difference:.1e} of the "
            f"largest logit, expected at most {ONNX_TOLERANCE:.0e}: a fault of the converter"
        )
