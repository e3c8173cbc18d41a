"""The two students and the bridges between them: building, initialisation, forward pass."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from collabseg_jax import models
from collabseg_jax.errors import InputError

STUDENTS = ("cnn", "vit")


def peer_of(student: str) -> str:
    """The other student's name."""
    return STUDENTS[1 - STUDENTS.index(student)]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two linen students and what connects them; `bridges` is None if no loss needs learned parts.

    Attributes:
      needs: the kinds of cross features to compute: "hfd", "common".
    """

    cnn: nn.Module
    vit: nn.Module
    bridges: nn.Module | None = None
    needs: tuple[str, ...] = ()


class PairOutput(NamedTuple):
    """What the objective sees.

    Attributes:
      students: {"cnn": SegOutput, "vit": SegOutput}.
      borrowed: {student: its F1 through the peer's stage 2, like the peer's F2}, or {}.
      common: {student: its F4 in the common shape}, or {}.
    """

    students: dict
    borrowed: dict
    common: dict


def build(
    cnn: str, vit: str, *, num_classes: int, needs, precision="float32", cnn_options, vit_options
) -> Pair:
    """A pair by model names; `needs` as in `Pair`, `precision` "float32" or "bfloat16"."""
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision is {precision!r}, expected 'float32' or 'bfloat16'")
    dtype = jnp.dtype(precision)
    cnn = models.build(cnn, num_classes, dtype=dtype, **cnn_options)
    vit = models.build(vit, num_classes, dtype=dtype, **vit_options)
    needs = tuple(sorted(needs))
    bridges = None
    if needs:
        bridges = models.Bridges(cnn.stage_channels, vit.stage_channels, needs, dtype=dtype)
    return Pair(cnn, vit, bridges, needs)


def init(pair: Pair, rng, *, size=(64, 64)) -> dict:
    """Fresh variables {"cnn": {params, batch_stats}, "vit": ..., "bridges": ...}.

    Each part draws from a key of its own name, so that a switched-off loss leaves the students'
    initial weights as they are.
    """
    images = jnp.zeros((1, *size, 3))
    variables, stages = {}, {}
    for i, name in enumerate(STUDENTS):
        model, key = getattr(pair, name), jax.random.fold_in(rng, i)
        variables[name] = model.init(key, images, train=False)
        output = jax.eval_shape(lambda v, m=model: m.apply(v, images, train=False), variables[name])
        stages[name] = [jnp.zeros(s.shape, s.dtype) for s in output.stages]
    variables["bridges"] = {"params": {}}
    if pair.bridges is not None:
        key = jax.random.fold_in(rng, len(STUDENTS))
        variables["bridges"] = pair.bridges.init(key, stages["cnn"], stages["vit"])
    return variables


def _borrow(model, variables, features):
    """Features through a model's second stage, whose parameters are stopped.

    BatchNorm sees the statistics of what it is given and leaves the running averages alone (the
    collection is not mutable here); stochastic depth is off.
    """
    stopped = jax.lax.stop_gradient(variables)
    return model.apply(stopped, 2, features, batch_stats=True, drop=False, method="stage")


def forward(pair: Pair, variables: dict, images, *, rng) -> tuple[PairOutput, dict]:
    """Both students in training mode, and what crosses between them.

    Args:
      variables: as `init` returns.
      images: float [B, H, W, 3], normalised.
      rng: key for dropout and stochastic depth.
    Returns:
      PairOutput, and the new batch_stats {"cnn": ..., "vit": ...}.
    Source: Zhu et al. 2023, figure 2; docs/method.md.
    """
    students, batch_stats = {}, {}
    for i, name in enumerate(STUDENTS):
        students[name], updates = getattr(pair, name).apply(
            variables[name],
            images,
            train=True,
            rngs={"dropout": jax.random.fold_in(rng, i)},
            mutable=["batch_stats"],
        )
        batch_stats[name] = updates.get("batch_stats", {})
    cnn, vit = (students[name].stages for name in STUDENTS)
    borrowed, common = {}, {}
    if "hfd" in pair.needs:
        to_vit, to_cnn = pair.bridges.apply(variables["bridges"], cnn[0], vit[0], method="lend")
        borrowed["cnn"] = _borrow(pair.vit, variables["vit"], to_vit)
        borrowed["vit"] = _borrow(pair.cnn, variables["cnn"], to_cnn)
    if "common" in pair.needs:
        both = pair.bridges.apply(variables["bridges"], cnn[3], vit[3], method="common")
        common = dict(zip(STUDENTS, both, strict=True))
    return PairOutput(students, borrowed, common), batch_stats
