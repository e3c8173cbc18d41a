"""Saving and restoring a run with orbax: asynchronous, the latest and the best kept, checked."""

import contextlib
import gc
import logging
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from collabseg_jax.errors import InputError, RunError
from collabseg_jax.run.console import console
from collabseg_jax.run.distributed import any_process, from_first

ITEM = "state"
METRIC = "miou"  # mean over both students; decides which checkpoint is the best
CRC = "crc32"  # orbax does not notice a changed bit in an array
SUM = "checksum"  # of earlier versions, blind to two flipped sign bits
_NO_TIMEOUT = 10 * 365 * 86_400  # orbax goes by the wall clock, which may jump


class Checkpoints:
    """The checkpoints of one run, in `<workdir>/checkpoints`."""

    def __init__(self, workdir: Any, *, every: int = 0, keep: int = 2) -> None:
        """Open the folder.

        Args:
          workdir: of the run.
          every: steps between two saves; 0 if none will be saved.
          keep: how many of the latest are kept, besides the best.
        """
        self.directory = Path(workdir).resolve() / "checkpoints"
        preservation = ocp.training.preservation_policies
        context = ocp.Context()
        context.asynchronous.timeout_secs = _NO_TIMEOUT
        # Else its threads wait for ever for the folders of a read-only disk.
        context.asynchronous.create_directories_asynchronously = False
        self._every = every
        self._saving: Any = None  # orbax's response to the save under way
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            context=context,
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

    def save(self, step: int, state: Any, *, metrics: Mapping[str, float] | None = None) -> None:
        """Start to save; returns as soon as the arrays are copied.

        Raises:
          RunError: this or the save before it did not reach the disk.
        """
        try:
            self._finish()
            self._saving = self._checkpointer.save_async(
                step,
                state,
                checkpointable_name=ITEM,
                force=True,
                metrics=metrics,
                custom_metadata={CRC: crc32(state)},
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

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, with the structure, types and shardings of `like`.

        Raises:
          InputError: it cannot be read, or is not what was saved.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        where = f"checkpoint {self.directory / str(step)} is damaged"
        with _quiet():
            try:
                saved = self._checkpointer.metadata(step).custom_metadata or {}
                state = self._checkpointer.load(step, abstract, checkpointable_name=ITEM)
            except Exception as error:  # whatever a broken file leads to
                problem = _root(error)
                del error  # with its traceback go the tasks that failed, which say so
                gc.collect()
                time.sleep(1)  # orbax's threads are still at it
                gc.collect()
                raise InputError(
                    f"{where}, or of another version of this program: {problem}"
                ) from None
        key, number = (CRC, crc32(state)) if CRC in saved else (SUM, _sum(state))
        if saved.get(key) != number:
            raise InputError(f"{where}: its arrays have {key} {number}, expected {saved.get(key)}")
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
            self._finish()
            self._checkpointer.close()
        except Exception as error:
            raise self._save_failed(error) from error

    def _finish(self) -> None:
        """Wait for the save under way. Only its result ends orbax's thread and event loop."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _save_failed(self, error: Exception) -> RunError:
        kept = [path.name for path in self.directory.glob("*") if path.name.isdigit()]
        newest = f"step {max(map(int, kept))}" if kept else "none"
        return RunError(
            f"{self.directory}: a checkpoint could not be saved: {_root(error)}. The last good "
            f"one: {newest}; the same command continues from it"
        )


def restore_newest(checkpoints: Checkpoints, like: Any, *, set_aside: bool = False) -> Any:
    """The state of the newest checkpoint that is whole; says which ones are not.

    Args:
      checkpoints: of the run.
      like: as for `Checkpoints.restore`; on the mesh of all processes, or of this one alone.
      set_aside: move the damaged ones away, for a run that will save these steps again.

    Returns:
      the state; None if there is no checkpoint at all.

    Raises:
      RunError: there are checkpoints, but none is whole (nothing is moved then), or the processes
        see different ones.
    """
    steps = checkpoints.steps()
    # Process 0 says how many there are and which is next, so that all do the same.
    if any_process(from_first(len(steps)) != len(steps)):
        raise RunError(
            f"the processes see different checkpoints in {checkpoints.directory} (here: {steps}), "
            "expected one workdir that all hosts share"
        )
    damaged: list[int] = []
    for step in reversed(steps):
        state, problem = None, ""
        try:
            state = checkpoints.restore(step, like)
        except InputError as error:
            problem = str(error)
        if not any_process(bool(problem)):
            break
        console(problem or f"checkpoint {step} is damaged where another process reads it")
        damaged.append(step)
    else:
        if not steps:
            return None
        raise RunError(
            f"{checkpoints.directory} holds no checkpoint that can be used; to start anew, move "
            "that folder away"
        )
    if damaged:
        console(f"falling back to the checkpoint of step {step}")
    if damaged and set_aside:
        if jax.process_index() == 0:
            console(f"the damaged ones now lie in {checkpoints.set_aside(damaged)}")
        any_process(False)  # wait for process 0
        checkpoints.reload()
    return state


def _words(state: Any) -> Iterator[np.ndarray]:
    """The bits of each array and key, on the host; every process must hold all of the arrays."""
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        yield np.ascontiguousarray(leaf.addressable_data(0)).reshape(-1)


def crc32(state: Any) -> int:
    """CRC-32 of the bits of a tree of arrays and keys, in the order of its leaves.

    On the host: as a program over a thousand arrays it would take longer to compile than all its
    calls in a run of hours.
    """
    number = 0
    for words in _words(state):
        number = zlib.crc32(words.view(np.uint8).data, number)
    return number


def _sum(state: Any) -> int:
    """What earlier versions stored as `SUM`, of 32-bit arrays."""
    total = 0
    for words in _words(state):
        place = 2 * np.arange(words.size, dtype=np.uint32) + 1
        share = int(np.sum(words.view(np.uint32) * place, dtype=np.uint32))
        total = (total * 1664525 + share) % 2**32
    return total


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Of a broken file, the tasks that read it say thousands of lines; one is enough."""

    def nothing(_: logging.LogRecord) -> bool:
        return False

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for logger in loggers:
        logger.addFilter(nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(nothing)


def _root(error: BaseException) -> str:
    """The first line of what lies at the bottom of an exception."""
    chain: list[BaseException] = []
    while error not in chain:  # orbax may raise one error twice: then the chain is a ring
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    root = next((e for e in reversed(chain) if not isinstance(e, RunError)), error)
    lines = str(root).strip().splitlines() or [""]
    return f"{type(root).__name__}: {lines[0][:300]}"
