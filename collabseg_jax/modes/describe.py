"""`--mode=describe`: parameters and multiply-adds of both students of a config.

Everything is traced on shapes alone: no data, no weights, nothing is compiled or run.
"""

import dataclasses
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from clu import parameter_overview
from flax import linen as nn

from collabseg_jax import ops
from collabseg_jax.collab.pair import STUDENTS, init_part
from collabseg_jax.ops.resize import SCOPE
from collabseg_jax.run.build import make_run

# Attributes of a student that are no options of its section in the config.
_NOT_OPTIONS = ("encoder", "num_classes", "dtype", "remat", "parent", "name")


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage of the encoder, or the head.

    Attributes:
      name: "F1" .. "F4" or "head".
      stride: pixels of the image per cell.
      channels: of what it returns: of F_i, or the classes.
      grid: (rows, columns) of the same.
      parameters: how many.
      macs: multiply-adds of one image, as `macs` counts them.
    """

    name: str
    stride: int
    channels: int
    grid: tuple[int, int]
    parameters: int
    macs: int


def parameters(tree: Any) -> int:
    """The number of values in a tree of arrays or of their shapes (`jax.ShapeDtypeStruct`)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def macs(fn: Callable, *shapes: Any) -> int:
    """Multiply-adds of a function's convolutions and matrix products.

    The convention of most published "FLOPs": a product and the addition of it count once; taps on
    padding count; biases, norms, activations, softmax, pooling and resizing do not count. What is
    counted is the standard formulation of `ops`, whatever the backend.

    Args:
      fn: a function of arrays, or of trees of arrays.
      *shapes: its arguments, as `jax.ShapeDtypeStruct` or arrays; nothing is computed with them.

    Returns:
      the number for these shapes, all images of the batch together.

    Raises:
      ValueError: a loop multiplies whose number of rounds only its data decide.
    """
    with ops.using("plain"):
        return _count(jax.make_jaxpr(fn)(*shapes).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        # The names inside a jitted function begin anew, so the call as a whole is passed over.
        if re.search(rf"\b{SCOPE}\b", str(eqn.source_info.name_stack)):
            continue
        name, inside = eqn.primitive.name, [_count(inner) for inner in _inner_jaxprs(eqn)]
        if name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            # The kernel's input channels are those of one group already.
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // features
        elif name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif name == "scan":
            total += eqn.params["length"] * sum(inside)
        elif name == "cond":
            total += max(inside)
        elif name == "while" and any(inside):
            raise ValueError("macs of a while loop: its number of rounds is not known, use a scan")
        else:
            total += sum(inside)
    return total


def _inner_jaxprs(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)  # a ClosedJaxpr holds one
            if hasattr(item, "eqns"):
                yield item


def parts(model: Any, size: tuple[int, int]) -> list[Part]:
    """What a student is made of: F1, F2, F3, F4 and the head, which is all the rest.

    SegFormer's folded head multiplies its matrices once a batch; that is in the head's figure.

    Args:
      model: a student as `models.build` gives it.
      size: (height, width) of the image in pixels.
    """
    image = x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    rows: list[Part] = []
    stride = 1
    for i in range(1, 5):

        def create(x: jax.Array, i: int = i) -> Any:
            rng = jax.random.key(0)
            return model.init_with_output(rng, i, x, batch_stats=False, method="stage")

        def forward(variables: Any, x: jax.Array, i: int = i) -> jax.Array:
            return model.apply(variables, i, x, batch_stats=False, drop=False, method="stage")

        y, variables = jax.eval_shape(create, x)
        stride *= math.ceil(x.shape[1] / y.shape[1])
        count, work = parameters(variables["params"]), macs(forward, variables, x)
        rows.append(Part(f"F{i}", stride, y.shape[3], y.shape[1:3], count, work))
        x = y
    output, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False), image
    )
    count = parameters(variables["params"]) - sum(part.parameters for part in rows)
    work = macs(lambda v, x: model.apply(v, x, train=False), variables, image)
    work -= sum(part.macs for part in rows)
    grid, classes = output.logits.shape[1:3], output.logits.shape[3]
    return [*rows, Part("head", rows[0].stride, classes, grid, count, work)]


def bridge_costs(bridges: nn.Module, cnn: Sequence[Part], vit: Sequence[Part]) -> tuple[int, int]:
    """(parameters, MACs of one image) of the bridges between two students.

    Args:
      bridges: as in `Pair`.
      cnn: what `parts` says of the CNN.
      vit: the same of the ViT.
    """
    stages = [
        [jax.ShapeDtypeStruct((1, *part.grid, part.channels), jnp.float32) for part in student[:4]]
        for student in (cnn, vit)
    ]
    variables = jax.eval_shape(lambda *s: bridges.init(jax.random.key(0), *s), *stages)

    return parameters(variables), macs(bridges.apply, variables, *stages)


def _sums(rows: Sequence[Part]) -> tuple[int, int]:
    return sum(part.parameters for part in rows), sum(part.macs for part in rows)


def _line(name: str, stride: Any, channels: Any, grid: str, count: str, work: str) -> str:
    return f"  {name:24}{stride:>8}{channels:>10}{grid:>12}{count:>15}{work:>10}"


def _sum_line(name: str, count: int, work: int) -> str:
    return _line(name, "", "", "", f"{count / 1e6:.3f}", f"{work / 1e9:.3f}")


def _part_line(part: Part) -> str:
    grid = f"{part.grid[0]}x{part.grid[1]}"
    count, work = f"{part.parameters / 1e6:.3f}", f"{part.macs / 1e9:.3f}"
    return _line(part.name, part.stride, part.channels, grid, count, work)


def _table(rows: Sequence[Part]) -> list[str]:
    """Lines for the parts of a student and their sums."""
    return [
        _line("", "stride", "channels", "grid", "parameters, M", "GMACs"),
        *map(_part_line, rows[:4]),
        _sum_line("encoder (F1 to F4)", *_sums(rows[:4])),
        _part_line(rows[4]),
        _sum_line("total", *_sums(rows)),
    ]


def _options(model: Any) -> list[str]:
    """Lines that give a student's options, as keys of its section in the config."""
    names = (f.name for f in dataclasses.fields(model) if f.name not in _NOT_OPTIONS)
    words = (f"{name}={getattr(model, name)}".replace(" ", "") for name in names)
    return textwrap.wrap(", ".join(words), 96, initial_indent="  ", subsequent_indent="  ")


def text(config: Any) -> str:
    """The description of a config's pair, as `--mode=describe` prints it.

    Raises:
      InputError: the size is too small, or a key of the config is wrong.
    """
    run, size = make_run(config), tuple(config.describe.size)
    pair, classes = run.pair, run.spec.num_classes
    lines = [
        f"{config.data.name}: {classes} classes. Work of one image of {size[0]}x{size[1]}, in 10^9 "
        "multiply-adds (GMACs)."
    ]
    costs = {}
    for name in STUDENTS:
        model = getattr(pair, name)
        costs[name] = parts(model, size)
        lines += ["", f"{name}: {config[name].model}", *_options(model), *_table(costs[name])]
        if getattr(model, "head", None) == "folded":
            published = _sums(parts(model.clone(head="plain"), size))
            if published != _sums(costs[name]):
                lines.append(_sum_line("as published, head=plain", *published))
    lines += ["", "pair", _sum_line("both students", *_sums(costs["cnn"] + costs["vit"]))]
    if pair.bridges is not None:
        extra = bridge_costs(pair.bridges, costs["cnn"], costs["vit"])
        lines.append(_sum_line("bridges (training only)", *extra))
    if config.describe.arrays:
        for name in STUDENTS:
            shapes = jax.eval_shape(lambda n=name: init_part(pair, n, jax.random.key(0)))
            overview = parameter_overview.get_parameter_overview(
                shapes["params"], include_stats=False
            )
            lines += ["", f"{name}, every array", overview]
    return "\n".join(lines)


def run(config: Any, workdir: Any = None) -> None:
    """`--mode=describe`: print what a config's students are made of, and what one image costs.

    Args:
      config: every key of configs/base.py.
      workdir: not used.

    That is inference. A training step is more than three times it: the backward passes, and with
    HFD the second stage of each student once more, on what the peer lends it.
    """
    print(text(config))
