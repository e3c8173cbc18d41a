"""Scores of both students and their ensemble over a whole split."""

import dataclasses
import itertools
import json
from pathlib import Path

import jax

from collabseg_jax import data
from collabseg_jax.collab import sharding as shardings
from collabseg_jax.collab import step as steps
from collabseg_jax.collab.inference import OUTPUTS, Inference
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.errors import InputError
from collabseg_jax.metrics import Confusion
from collabseg_jax.run import build as experiment
from collabseg_jax.run import record as workdirs
from collabseg_jax.run.console import Progress, console
from collabseg_jax.run.files import replace_text


class Evaluator:
    """Evaluates states on one split; its programs are compiled once."""

    def __init__(
        self,
        pair,
        source,
        spec,
        mesh,
        *,
        split,
        batch_size,
        max_shapes,
        short_side=0,
        how: Inference = Inference(),
    ):
        """See `config.eval` for all but `how`; batch_size is rounded up to the devices."""
        self._source, self._spec, self._split = source, spec, split
        self._layout = shardings.eval_layout(mesh, batch_size=batch_size)
        self._max_shapes, self._short_side, self._how = max_shapes, short_side, how
        self._step = steps.jit_eval_step(
            self._layout, pair=pair, num_classes=spec.num_classes, how=how
        )

    def __call__(self, state, stop=lambda: False) -> dict | None:
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


def make(config, pair, source, spec, mesh) -> Evaluator:
    """The evaluator that `config.eval` describes."""
    return Evaluator(
        pair,
        source,
        spec,
        mesh,
        split=config.eval.split,
        batch_size=config.eval.batch_size,
        max_shapes=config.eval.max_shapes,
        short_side=config.eval.short_side,
        how=experiment.inference(config),
    )


def summary(results: dict) -> str:
    """One line of mIoUs."""
    parts = [
        f"{name} {'-' if results[name]['miou'] is None else format(results[name]['miou'], '.4f')}"
        for name in OUTPUTS
    ]
    return "mIoU  " + "  ".join(parts)


def run(config, workdir) -> dict:
    """`--mode=eval`: score a trained workdir and write `eval_<split>.json` there.

    Args:
      config: as for `workdir.recorded_config`.
    """
    config = workdirs.recorded_config(workdir, config)
    prepared = experiment.prepare_data(config)
    spec = workdirs.recorded_spec(workdir)
    if prepared.spec.classes != spec.classes:
        pairs = itertools.zip_longest(prepared.spec.classes, spec.classes)
        number, (found, expected) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
        raise InputError(
            f"class {number} of the data in {prepared.builder_dir} is {found!r}, expected "
            f"{expected!r} as {workdir} was trained on"
        )
    source = prepared.source(config.eval.split)
    mesh = shardings.make_mesh(**config.mesh)
    built, state = experiment.restore(workdir, config, num_classes=spec.num_classes, mesh=mesh)
    evaluator = make(config, built.pair, source, prepared.spec, mesh)
    results = evaluator(state)
    path = Path(workdir) / f"eval_{config.eval.split}.json"
    if jax.process_index() == 0:
        replace_text(path, json.dumps(results, indent=1) + "\n")
    console(f"step {results['step']}: {summary(results)} -> {path}")
    return results
