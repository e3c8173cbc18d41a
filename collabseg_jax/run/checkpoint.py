"""Saving and restoring a run with orbax: asynchronous, the latest and the best kept, checked."""

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from collabseg_jax.errors import InputError, RunError

ITEM = "state"
METRIC = "miou"  # mean over both students; decides which checkpoint is the best
CHECKSUM = "checksum"  # orbax does not notice a changed bit in an array
_NO_TIMEOUT = 10 * 365 * 86_400  # orbax goes by the wall clock, which may jump


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints`."""

    def __init__(self, workdir, *, every: int = 0, keep: int = 2):
        """Open the folder.

        Args:
          workdir: of the run.
          every: steps between two saves; 0 if none will be saved.
          keep: how many of the latest are kept, besides the best.
        """
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax is talkative
        self.directory = Path(workdir).resolve() / "checkpoints"
        preservation = ocp.training.preservation_policies
        self._every = every
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=ocp.Context(
                async_options=ocp.options.AsyncOptions(
                    timeout_secs=_NO_TIMEOUT,
                    # Else its threads wait for ever for the folders of a read-only disk.
                    create_directories_asynchronously=False,
                )
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
        return step % self._every == 0

    def save(self, step: int, state, *, metrics: dict | None = None) -> None:
        """Start to save; returns as soon as the arrays are copied.

        Raises:
          RunError: this or the save before it did not reach the disk.
        """
        checked = {CHECKSUM: checksum(state)}
        try:
            self._checkpointer.save_async(
                step,
                state,
                checkpointable_name=ITEM,
                force=True,
                metrics=metrics,
                custom_metadata=checked,
            )
        except Exception as error:
            raise self._save_failed(error) from error

    def steps(self) -> list[int]:
        """The finished checkpoints, oldest first."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    def best_step(self) -> int | None:
        """The step with the best metric, or None."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored, key=lambda c: (c.metrics[METRIC], c.step)).step if scored else None

    def restore(self, step: int, like):
        """The state of a step, with the structure, types and shardings of `like`.

        Raises:
          ValueError: it cannot be read, or is not what was saved.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        state, saved, problem = None, {}, ""
        with _silence():
            try:
                saved = self._checkpointer.metadata(step).custom_metadata or {}
                state = self._checkpointer.load(step, abstract, checkpointable_name=ITEM)
            except Exception as error:  # whatever a broken file leads to
                problem = _root(error)
            if problem:
                time.sleep(1)  # its threads are still talking
        if problem:
            raise InputError(
                f"checkpoint {self.directory / str(step)} is damaged, or of another version of "
                f"this program: {problem}"
            )
        found = checksum(state)
        if saved.get(CHECKSUM) != found:
            raise InputError(
                f"checkpoint {self.directory / str(step)} is damaged: its arrays have checksum "
                f"{found}, expected {saved.get(CHECKSUM)}"
            )
        return state

    def set_aside(self, steps: list[int]) -> Path:
        """Move checkpoints out of the way of new ones of the same steps; call it in process 0."""
        target = self.directory.with_name("checkpoints_damaged")
        target.mkdir(exist_ok=True)
        for step in steps:
            number = len(list(target.glob(f"{step}*")))
            (self.directory / str(step)).rename(
                target / (f"{step}.{number}" if number else f"{step}")
            )
        return target

    def reload(self) -> None:
        """Look at the folder again."""
        self._checkpointer.reload()

    def close(self) -> None:
        """Wait for saves that are under way.

        Raises:
          RunError: the last save did not reach the disk.
        """
        try:
            self._checkpointer.close()
        except Exception as error:
            raise self._save_failed(error) from error

    def _save_failed(self, error: Exception) -> RunError:
        kept = [path.name for path in self.directory.glob("*") if path.name.isdigit()]
        newest = f"step {max(map(int, kept))}" if kept else "none"
        return RunError(
            f"{self.directory}: a checkpoint could not be saved: {_root(error)}. The last good "
            f"one: {newest}; the same command continues from it"
        )


def checksum(state) -> int:
    """A 32-bit number of a tree of 32-bit arrays and keys; any one changed bit changes it.

    Every process must hold all of the arrays. On the host: as a program over a thousand arrays it
    would take longer to compile than all its calls in a run of hours.
    """
    total = 0
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        words = np.asarray(leaf.addressable_data(0)).reshape(-1).view(np.uint32)
        # Odd factors that differ by place: a flipped bit never cancels, swapped words rarely do.
        place = 2 * np.arange(words.size, dtype=np.uint32) + 1
        total = (total * 1664525 + int(np.sum(words * place, dtype=np.uint32))) % 2**32
    return total


@contextlib.contextmanager
def _silence():
    """Of a broken file, orbax says thousands of lines from threads and destructors."""
    with _silent:
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            gc.collect()
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
            sys.unraisablehook = hook


_silent = threading.Lock()  # standard error is one for all threads


def _root(error: BaseException) -> str:
    """The first line of what lies at the bottom of an exception."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
