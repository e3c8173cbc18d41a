"""Students as StableHLO (one artefact for CPUs, GPUs and TPUs) and as ONNX."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def _function(student: Student) -> Callable[[jax.Array], jax.Array]:
    """The function images uint8 [B, H, W, 3] -> logits float32 [B, H, W, K] with its weights."""

    def logits(images: jax.Array) -> jax.Array:
        output: Any = student.model.apply(student.variables, augment.normalize(images), train=False)
        return output.logits_at(images.shape[1:3])

    return logits


def to_stablehlo(student: Student, directory: Path) -> str:
    """Writes `model.stablehlo`, `load.py` and `labels.json`.

    The artefact takes uint8 [B, H, W, 3] of any batch and size and returns logits of that size. The
    sides must be at least 32, and for a SegFormer multiples of 32, since its spatial reductions and
    strides divide them.

    Args:
      student: any.
      directory: where to write it; it exists.

    Returns:
      how to use it, Markdown.
    """
    multiple, dims, constraints = 1, "b, h, w, 3", [f"h >= {MIN_SIZE}", f"w >= {MIN_SIZE}"]
    if isinstance(student.model, SegFormer):
        multiple, dims, constraints = 32, "b, 32*h, 32*w, 3", []
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
from load import LABELS, logits  # load.py is in this directory

classes = logits(images).argmax(-1)  # uint8 [B, H, W, 3] RGB -> [B, H, W]
```

The artefact runs on {", ".join(PLATFORMS)} and needs only JAX and flatbuffers. It normalises the
images itself and takes any batch and size, sides at least {MIN_SIZE} and multiples of {multiple}.
`labels.json` has the classes and their colours."""


def to_onnx(student: Student, directory: Path, *, size: tuple[int, int]) -> str:
    """Writes `model.onnx` for one image of one size, and `labels.json`.

    Args:
      student: any.
      directory: where to write it; it exists.
      size: (height, width) in pixels, at least 32 each.

    Returns:
      how to use it, Markdown.

    Raises:
      InputError: jax2onnx is not installed, or the size is out of range.
      RunError: the converted graph does not compute what the model does.
    """
    if len(size) != 2 or min(size) < MIN_SIZE:
        raise InputError(
            f"export size {tuple(size)}: expected (height, width) of at least {MIN_SIZE}"
        )
    shape = (1, *size, 3)
    with _errors_only("jax2onnx"):  # it logs tracebacks of plugins that are not used here
        try:
            import onnx
            import onnxruntime
            from jax2onnx import to_onnx as convert
        except ImportError as error:
            raise InputError(
                f"format=onnx needs jax2onnx, which is not installed ({error}); expected pip "
                "install -e '.[onnx]'"
            ) from error
        with ops.using("plain"):
            graph = convert(
                _function(student),
                [jax.ShapeDtypeStruct(shape, jnp.uint8)],
                model_name=student.name,
            )
    onnx.save_model(graph, directory / ONNX)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns about shapes that it infers again
    session = onnxruntime.InferenceSession(
        directory / ONNX, options, providers=["CPUExecutionProvider"]
    )
    _check_onnx(student, session, shape)
    write_labels(directory, student, input=f"uint8 {list(shape)} RGB")
    return f"""
```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{session.get_inputs()[0].name: images}})  # uint8 {list(shape)} RGB
```

The model normalises the images itself. `labels.json` has the classes and their colours."""


@contextlib.contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """A logger says only errors inside, and is as before afterwards."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_onnx(student: Student, session: Any, shape: tuple[int, ...]) -> None:
    """Compares the graph with the model: the converter has silently dropped a padding before."""
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (converted,) = session.run(None, {session.get_inputs()[0].name: images})
    with jax.default_matmul_precision("highest"):  # GPUs and TPUs round factors
        expected = np.asarray(jax.jit(_function(student))(images))
    difference = np.abs(converted - expected).max() / np.abs(expected).max()
    if not difference <= ONNX_TOLERANCE:
        raise RunError(
            f"the ONNX graph of {student.name} differs from the model by {difference:.1e} of the "
            f"largest logit, expected at most {ONNX_TOLERANCE:.0e}: a fault of the converter"
        )
