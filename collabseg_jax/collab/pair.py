"""The two students and the bridges between them: building, initialisation, forward pass."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import models
from collabseg_jax.errors import InputError
from collabseg_jax.models.outputs import SegOutput

STUDENTS = ("cnn", "vit")
PARTS = (*STUDENTS, "bridges")


def peer_of(student: str) -> str:
    """The other student's name.

    Example:
      >>> peer_of("cnn")
      'vit'
    """
    return STUDENTS[1 - STUDENTS.index(student)]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two linen students and what connects them; `bridges` is None if no loss needs learned parts.

    Attributes:
      cnn: the CNN, a module with the contract of `models.build`.
      vit: the Mix Transformer.
      bridges: the projections between them.
      needs: the kinds of cross features to compute, of `models.KINDS`.
      borrowed_grad: whether the borrowed stages' own parameters learn from "hfd" too.
      mask_ratio: share of the positions that "mgd" masks, in [0, 1].
      frozen: a student that does not learn, at most one: it runs as in evaluation.
    """

    cnn: nn.Module
    vit: nn.Module
    bridges: nn.Module | None = None
    needs: tuple[str, ...] = ()
    borrowed_grad: bool = False
    mask_ratio: float = 0.75
    frozen: tuple[str, ...] = ()


class PairOutput(NamedTuple):
    """What the objective sees.

    Attributes:
      students: {student: SegOutput}.
      crossed: {kind: {student that learns: features}}, of the kinds that the pair needs: "hfd", its
        F1 through the peer's stage 2, in the shape of the peer's F2; "common", its F4 in the common
        shape; "to_peer", its F4 in the shape of the peer's; "mgd", the same, masked at random and
        completed by a generator.
    """

    students: dict[str, SegOutput]
    crossed: dict[str, dict[str, jax.Array]]


def build_pair(
    cnn: str,
    vit: str,
    *,
    num_classes: int,
    needs: Iterable[str],
    precision: str = "float32",
    cnn_options: Mapping[str, Any],
    vit_options: Mapping[str, Any],
    borrowed_grad: bool = False,
    mask_ratio: float = 0.75,
    frozen: tuple[str, ...] = (),
) -> Pair:
    """A pair by model names.

    Args:
      cnn: a name of `models.MODELS`.
      vit: another.
      num_classes: K, at least 2.
      needs: see `Pair`, as borrowed_grad, mask_ratio and frozen.
      precision: of the compute, "float32" or "bfloat16".
      cnn_options: of `models.build`.
      vit_options: the same.
      borrowed_grad: see `Pair`.
      mask_ratio: see `Pair`.
      frozen: see `Pair`.

    Raises:
      InputError: an unknown model, option or precision, or a mask_ratio that is no share.

    Example:
      >>> made = build_pair(
      ...     "deeplabv3plus_resnet18", "segformer_b0",
      ...     num_classes=8, needs=("hfd",), cnn_options={}, vit_options={},
      ... )
      >>> made.bridges.kinds
      ('hfd',)
    """
    if not 0 <= mask_ratio <= 1:
        raise InputError(f"mask_ratio is {mask_ratio}, expected 0 to 1")
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision is {precision!r}, expected 'float32' or 'bfloat16'")
    dtype, needs = jnp.dtype(precision), tuple(sorted(needs))
    students = (
        models.build(cnn, num_classes, dtype=dtype, **cnn_options),
        models.build(vit, num_classes, dtype=dtype, **vit_options),
    )
    bridges = None
    if needs:
        channels = [student.stage_channels for student in students]
        bridges = models.Bridges(channels[0], channels[1], needs, dtype=dtype)
    return Pair(*students, bridges, needs, borrowed_grad, mask_ratio, frozen)


def init(pair: Pair, rng: jax.Array, *, size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    """Fresh variables {"cnn": {params, batch_stats}, "vit": ..., "bridges": ...}."""
    return {part: init_part(pair, part, rng, size=size) for part in PARTS}


def init_part(
    pair: Pair, part: str, rng: jax.Array, *, size: tuple[int, int] = (64, 64)
) -> dict[str, Any]:
    """Fresh variables of one of `PARTS`.

    Each draws from a key of its own, so that a loss that is off leaves the students' initial
    weights as they are.

    Args:
      pair: of `build_pair`.
      part: "cnn", "vit" or "bridges".
      rng: key.
      size: (height, width) of the image that shapes are traced on.

    Returns:
      {"params", "batch_stats"}; the second only where there is a BatchNorm.
    """
    images, key = jnp.zeros((1, *size, 3)), jax.random.fold_in(rng, PARTS.index(part))
    if part in STUDENTS:
        return getattr(pair, part).init(key, images, train=False)
    if pair.bridges is None:
        return {"params": {}}
    stages = []
    for name in STUDENTS:
        create = functools.partial(getattr(pair, name).init_with_output, train=False)
        output, _ = jax.eval_shape(create, key, images)
        stages.append([jnp.zeros(s.shape, s.dtype) for s in output.stages])
    return dict(pair.bridges.init(key, *stages))


def _borrow(
    pair: Pair, student: str, variables: Mapping[str, Any], features: jax.Array
) -> jax.Array:
    """Features through a student's second stage, whose parameters are stopped.

    They learn if `borrowed_grad` says so. BatchNorm sees the statistics of what it is given and
    leaves the running averages alone (the collection is not mutable here); a frozen student's uses
    those averages. Stochastic depth is off.
    """
    used = variables[student]
    if not pair.borrowed_grad:
        used = jax.lax.stop_gradient(used)
    own = student not in pair.frozen
    return getattr(pair, student).apply(
        used, 2, features, batch_stats=own, drop=False, method="stage"
    )


def _keep(pair: Pair, student: str, features: jax.Array, rng: jax.Array) -> jax.Array:
    """Where the masked copy of a student's F4 keeps the features: bool [B, h, w, 1]."""
    key = jax.random.fold_in(rng, len(STUDENTS) + STUDENTS.index(student))
    return jax.random.bernoulli(key, 1 - pair.mask_ratio, (*features.shape[:3], 1))


def forward(
    pair: Pair, variables: Mapping[str, Any], images: jax.Array, *, rng: jax.Array
) -> tuple[PairOutput, dict[str, Any]]:
    """Both students in training mode (frozen: as in evaluation), and what crosses between them.

    Args:
      pair: of `build_pair`.
      variables: as `init` returns.
      images: float [B, H, W, 3], normalised.
      rng: key for dropout, stochastic depth, and the masks of "mgd".

    Returns:
      PairOutput, and the new batch_stats {"cnn": ..., "vit": ...} of those that learn.

    Source: Zhu et al. 2023, figure 2; docs/method.md.
    """
    students: dict[str, SegOutput] = {}
    batch_stats: dict[str, Any] = {}
    for i, name in enumerate(STUDENTS):
        if name in pair.frozen:
            output = getattr(pair, name).apply(variables[name], images, train=False)
            students[name] = jax.lax.stop_gradient(output)
            continue
        students[name], updates = getattr(pair, name).apply(
            variables[name],
            images,
            train=True,
            rngs={"dropout": jax.random.fold_in(rng, i)},
            mutable=["batch_stats"],
        )
        batch_stats[name] = updates.get("batch_stats", {})
    return PairOutput(students, _cross(pair, variables, students, rng)), batch_stats


def _cross(
    pair: Pair, variables: Mapping[str, Any], students: Mapping[str, SegOutput], rng: jax.Array
) -> dict[str, dict[str, jax.Array]]:
    """`PairOutput.crossed`."""
    if pair.bridges is None:
        return {}
    cnn, vit = (students[name].stages for name in STUDENTS)
    keep = None
    if "mgd" in pair.needs:
        keep = _keep(pair, "cnn", vit[3], rng), _keep(pair, "vit", cnn[3], rng)
    projected: Any = pair.bridges.apply(variables["bridges"], cnn, vit, keep)
    crossed = {
        kind: dict(zip(STUDENTS, features, strict=True)) for kind, features in projected.items()
    }
    if "hfd" in crossed:
        crossed["hfd"] = {
            name: _borrow(pair, peer_of(name), variables, features)
            for name, features in crossed["hfd"].items()
        }
    return crossed
