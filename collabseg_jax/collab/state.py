"""What a training run is, as one tree of arrays."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


@struct.dataclass
class TrainState:
    """One student, or the bridges: parameters, running statistics, optimizer state.

    The optimizer state of a frozen student is empty.
    """

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class CollabState:
    """Everything that changes in a run; saved and restored as a whole.

    Attributes:
      step: int32 scalar, the number of steps done, skipped ones included.
      skipped: int32 scalar, the steps whose losses or gradients were not finite.
      skipped_in_a_row: int32 scalar, of these the ones since the last good step.
      rng: typed key; the key of a step is fold_in(rng, step).
      cnn, vit, bridges: one TrainState each.
    """

    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array
    rng: jax.Array
    cnn: TrainState
    vit: TrainState
    bridges: TrainState


def create_state(
    variables: Mapping[str, Any],
    optimizers: Mapping[str, optax.GradientTransformation],
    rng: jax.Array,
) -> CollabState:
    """A state at step 0.

    Args:
      variables: of `pair.init`.
      optimizers: {part that learns: its optimizer}.
      rng: key of the run.
    """
    parts = {}
    for name, part in variables.items():
        parts[name] = TrainState(
            params=part["params"],
            batch_stats=part.get("batch_stats", {}),
            opt_state=optimizers[name].init(part["params"]) if name in optimizers else (),
        )
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
    return CollabState(step, skipped, in_a_row, rng, parts["cnn"], parts["vit"], parts["bridges"])
