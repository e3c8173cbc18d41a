"""The two students and the bridges between them: building, initialisation, forward pass."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import models
from collabseg_jax.errors import InputError

STUDENTS = ("cnn", "vit")
PARTS = (*STUDENTS, "bridges")


def peer_of(student: str) -> str:
    """The other student's name."""
    return STUDENTS[1 - STUDENTS.index(student)]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two linen students and what connects them; `bridges` is None if no loss needs learned parts.

    Attributes:
      needs: the kinds of cross features to compute: "hfd", "common", "to_peer", "mgd".
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
      students: {"cnn": SegOutput, "vit": SegOutput}.
      borrowed: {student: its F1 through the peer's stage 2, like the peer's F2}, or {}.
      common: {student: its F4 in the common shape}, or {}.
      to_peer: {student: its F4 in the shape of the peer's F4}, or {}.
      generated: {student: the same, masked at random and completed by a generator}, or {}.
    """

    students: dict
    borrowed: dict
    common: dict
    to_peer: dict
    generated: dict


def build(
    cnn: str,
    vit: str,
    *,
    num_classes: int,
    needs,
    precision="float32",
    cnn_options,
    vit_options,
    **options,
) -> Pair:
    """A pair by model names; `precision` "float32" or "bfloat16".

    Args:
      needs, **options: attributes of `Pair`.
    Raises:
      ValueError: an unknown model or precision, or a mask_ratio that is no share.
    """
    if not 0 <= options.get("mask_ratio", 0.0) <= 1:
        raise InputError(f"losses.mgd.mask_ratio is {options['mask_ratio']}, expected 0 to 1")
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision is {precision!r}, expected 'float32' or 'bfloat16'")
    dtype = jnp.dtype(precision)
    cnn = models.build(cnn, num_classes, dtype=dtype, **cnn_options)
    vit = models.build(vit, num_classes, dtype=dtype, **vit_options)
    needs = tuple(sorted(needs))
    bridges = None
    if needs:
        bridges = models.Bridges(cnn.stage_channels, vit.stage_channels, needs, dtype=dtype)
    return Pair(cnn, vit, bridges, needs, **options)


def init(pair: Pair, rng, *, size=(64, 64)) -> dict:
    """Fresh variables {"cnn": {params, batch_stats}, "vit": ..., "bridges": ...}."""
    return {part: init_part(pair, part, rng, size=size) for part in PARTS}


def init_part(pair: Pair, part: str, rng, *, size=(64, 64)) -> dict:
    """Fresh variables of one of `PARTS`.

    Each draws from a key of its own, so that a switched-off loss leaves the students' initial
    weights as they are.
    """
    images, key = jnp.zeros((1, *size, 3)), jax.random.fold_in(rng, PARTS.index(part))
    if part in STUDENTS:
        return getattr(pair, part).init(key, images, train=False)
    if pair.bridges is None:
        return {"params": {}}
    stages = []
    for name in STUDENTS:
        model = getattr(pair, name)
        made = functools.partial(model.init_with_output, train=False)
        output, _ = jax.eval_shape(made, key, images)
        stages.append([jnp.zeros(s.shape, s.dtype) for s in output.stages])
    return pair.bridges.init(key, *stages)


def _borrow(pair, student, variables, features):
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


def _keep(pair, student, features, rng):
    """Where the masked copy of a student's F4 keeps the features: bool [B, h, w, 1]."""
    key = jax.random.fold_in(rng, len(STUDENTS) + STUDENTS.index(student))
    return jax.random.bernoulli(key, 1 - pair.mask_ratio, (*features.shape[:3], 1))


def forward(pair: Pair, variables: dict, images, *, rng) -> tuple[PairOutput, dict]:
    """Both students in training mode (frozen: as in evaluation), and what crosses between them.

    Args:
      variables: as `init` returns.
      images: float [B, H, W, 3], normalised.
      rng: key for dropout, stochastic depth, and the masks of "mgd".
    Returns:
      PairOutput, and the new batch_stats {"cnn": ..., "vit": ...} of those that learn.
    Source: Zhu et al. 2023, figure 2; docs/method.md.
    """
    students, batch_stats = {}, {}
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
    cnn, vit = (students[name].stages for name in STUDENTS)
    keep, crossed = None, {}
    if "mgd" in pair.needs:
        keep = _keep(pair, "cnn", vit[3], rng), _keep(pair, "vit", cnn[3], rng)
    if pair.needs:
        both = pair.bridges.apply(variables["bridges"], cnn, vit, keep)
        crossed = {kind: dict(zip(STUDENTS, x, strict=True)) for kind, x in both.items()}
    borrowed = {
        name: _borrow(pair, peer_of(name), variables, x)
        for name, x in crossed.pop("hfd", {}).items()
    }
    common, to_peer, generated = (crossed.get(kind, {}) for kind in ("common", "to_peer", "mgd"))
    return PairOutput(students, borrowed, common, to_peer, generated), batch_stats
