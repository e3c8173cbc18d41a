"""Saving and restoring a run with orbax: asynchronous, the latest and the best kept."""

import logging
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from collabseg_jax.errors import InputError

ITEM = "state"
METRIC = "miou"  # mean over both students; decides which checkpoint is the best


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints`."""

    def __init__(self, workdir, *, every: int = 0, keep: int = 2):
        """Open the folder.

        Args:
          workdir: of the run.
          every: steps between two saves; 0 if none will be saved.
          keep: how many of the latest are kept, besides the best.
        """
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax is talkative
        policies = ocp.training.save_decision_policies
        preservation = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            Path(workdir).resolve() / "checkpoints",
            save_decision_policy=policies.AnySavePolicy(
                [policies.FixedIntervalPolicy(every or 1), policies.PreemptionCheckpointingPolicy()]
            ),
            # What a killed save left; a mere reader must not touch a save that is under way.
            cleanup_tmp_directories=every > 0,
            preservation_policy=preservation.AnyPreservationPolicy(
                [
                    preservation.LatestN(keep),
                    preservation.BestN(
                        get_metric_fn=lambda metrics: metrics[METRIC],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )

    def due(self, step: int) -> bool:
        """Whether this step is one to save."""
        return self._checkpointer.should_save(step)

    def save(self, step: int, state, *, metrics: dict | None = None) -> None:
        """Start to save; returns as soon as the arrays are copied."""
        self._checkpointer.save_async(
            step, state, checkpointable_name=ITEM, force=True, metrics=metrics
        )

    def latest_step(self) -> int | None:
        """The newest finished step, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def best_step(self) -> int | None:
        """The step with the best metric, or None."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored, key=lambda c: (c.metrics[METRIC], c.step)).step if scored else None

    def restore(self, step: int, like):
        """The state of a step, with the structure, types and shardings of `like`."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            return self._checkpointer.load(step, abstract, checkpointable_name=ITEM)
        except (ValueError, KeyError) as error:
            raise InputError(
                f"checkpoint {step} does not fit this configuration: {str(error).splitlines()[0]}"
            ) from error

    def close(self) -> None:
        """Wait for saves that are under way."""
        self._checkpointer.close()
