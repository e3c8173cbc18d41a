"""Scores of both students and their ensemble over a whole split."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from collabseg_jax import data
from collabseg_jax.collab.inference import OUTPUTS, Inference
from collabseg_jax.collab.pair import STUDENTS, Pair
from collabseg_jax.collab.programs import jit_eval_step
from collabseg_jax.collab.sharding import eval_layout
from collabseg_jax.collab.state import CollabState
from collabseg_jax.errors import InputError
from collabseg_jax.metrics import Confusion
from collabseg_jax.run.build import Run, make_run, prepare_data
from collabseg_jax.run.console import Progress, console
from collabseg_jax.run.files import replace_text
from collabseg_jax.run.record import recorded_config, recorded_spec


class Evaluator:
    """Evaluates states on one split; its programs are compiled once."""

    def __init__(
        self,
        pair: Pair,
        source: data.Source,
        spec: data.DatasetSpec,
        mesh: Mesh,
        *,
        split: str,
        batch_size: int,
        max_shapes: int,
        short_side: int = 0,
        how: Inference = Inference(),
    ) -> None:
        """Compile nothing yet.

        Args:
          pair: the students.
          source: the records of the split.
          spec: of the data set.
          mesh: the devices.
          split: its name.
          batch_size: images of a batch, rounded up to the devices.
          max_shapes: see `data.eval_batches`.
          short_side: see there.
          how: windows, scales and mirroring.
        """
        self._source, self._spec, self._split = source, spec, split
        self._layout = eval_layout(mesh, batch_size=batch_size)
        self._max_shapes, self._short_side, self._how = max_shapes, short_side, how
        self._step = jit_eval_step(self._layout, pair=pair, num_classes=spec.num_classes, how=how)

    def __call__(
        self, state: CollabState, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """{"step", "split", "inference", "cnn", "vit", "ensemble"}.

        The last three are scores as `metrics.scores` gives them, "inference" how images were seen,
        by the keys of `config.eval`. None if `stop()`, asked before each batch, ends it early.
        """
        variables = {name: getattr(state, name).variables for name in STUDENTS}
        total = {name: Confusion.empty(self._spec.num_classes) for name in OUTPUTS}
        progress = Progress(len(self._source), f"evaluating {self._split}", "image")
        batches = data.eval_batches(
            self._source,
            self._spec,
            batch_size=self._layout.batch_size,
            max_shapes=self._max_shapes,
            short_side=self._short_side,
            rows=self._layout.rows,
        )
        share = len(self._layout.rows) / self._layout.batch_size
        for batch in batches:
            if stop():
                progress.close()
                return None
            batch.pop("index")
            confusion = self._step(variables, self._layout.place(batch))
            for name in OUTPUTS:
                total[name] = total[name].merge(Confusion(confusion[name]))
            progress.advance(round(batch["valid"].sum() / share))
        progress.close()
        scored = {name: total[name].compute(self._spec.classes) for name in OUTPUTS}
        seen = {"short_side": self._short_side, **dataclasses.asdict(self._how)}
        return {"step": int(state.step), "split": self._split, "inference": seen, **scored}


def make_evaluator(run: Run, source: data.Source, spec: data.DatasetSpec) -> Evaluator:
    """The evaluator that `config.eval` describes."""
    config = run.config
    return Evaluator(
        run.pair,
        source,
        spec,
        run.mesh,
        split=config.eval.split,
        batch_size=config.eval.batch_size,
        max_shapes=config.eval.max_shapes,
        short_side=config.eval.short_side,
        how=run.inference,
    )


def summary(results: Mapping[str, Any]) -> str:
    """One line of mIoUs."""
    parts = [
        f"{name} {'-' if results[name]['miou'] is None else format(results[name]['miou'], '.4f')}"
        for name in OUTPUTS
    ]
    return "mIoU  " + "  ".join(parts)


def run(config: Any, workdir: Any) -> dict[str, Any]:
    """`--mode=eval`: score a trained workdir and write `eval_<split>.json` there.

    Args:
      config: as for `record.recorded_config`.
      workdir: of a run.

    Returns:
      the scores, as `Evaluator` gives them.

    Raises:
      InputError: nothing was trained there, or the data has other classes.
    """
    config = recorded_config(workdir, config)
    prepared, spec = prepare_data(config), recorded_spec(workdir)
    if prepared.spec.classes != spec.classes:
        pairs = itertools.zip_longest(prepared.spec.classes, spec.classes)
        number, (here, trained) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise InputError(
            f"class {number} of the data in {prepared.builder_dir} is {here!r}, expected "
            f"{trained!r} as {workdir} was trained on"
        )
    source = prepared.source(config.eval.split)
    run = make_run(config, spec=spec)
    results = make_evaluator(run, source, prepared.spec)(run.restore(workdir))
    assert results is not None  # nobody asked it to stop
    path = Path(workdir) / f"eval_{config.eval.split}.json"
    if jax.process_index() == 0:
        replace_text(path, json.dumps(results, indent=1) + "\n")
    console(f"step {results['step']}: {summary(results)} -> {path}")
    return results
