"""The training loop: wiring only."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from collabseg_jax import data
from collabseg_jax.collab import custom
from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.data.training import TrainBatches
from collabseg_jax.errors import RunError
from collabseg_jax.modes.evaluate import make_evaluator, summary
from collabseg_jax.report import charts, drawing, pictures
from collabseg_jax.run.build import Run, make_run, prepare_data
from collabseg_jax.run.checkpoint import METRIC, Checkpoints, restore_newest
from collabseg_jax.run.console import Progress, Waits, console
from collabseg_jax.run.distributed import StopSignal, from_first
from collabseg_jax.run.files import replace_text, writing
from collabseg_jax.run.log import MetricLog, Trace, read_log
from collabseg_jax.run.record import locked, record_config, refuse_other_config
from collabseg_jax.run.records import TrainingData, choose_records


def run(config: Any, workdir: Any) -> dict | None:
    """`--mode=train`: train, or continue, in `workdir`.

    Args:
      config: every key of configs/base.py.
      workdir: the folder of the run.

    Returns:
      what `results.json` holds; None if SIGTERM or SIGHUP ended the run early, its state saved.

    Raises:
      InputError: a key, the data, or what is in the workdir already.
      RunError: the run cannot go on.
    """
    workdir = Path(workdir)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir), StopSignal() as stop:
        return _run(config, workdir, stop)


def _run(config: Any, workdir: Path, stop: StopSignal) -> dict | None:
    refuse_other_config(config, workdir)
    run = make_run(config)
    if "custom" in run.objective.terms:
        custom.load(config.losses.custom.fn)  # before any work: it may not be there
    layout = run.layout  # the batch may not fit the devices
    prepared = prepare_data(config)
    spec = prepared.spec  # of the copy: label files of a data set may vary
    trained_on = choose_records(config, prepared)
    run = run.weigh_classes(trained_on.class_weights)
    eval_source = prepared.source(config.eval.split)
    device = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    console(f"training on {device} device(s) of {jax.process_count()} process(es)")
    checkpoints = Checkpoints(workdir, every=config.checkpoint.every, keep=config.checkpoint.keep)
    begins = from_first(len(checkpoints.steps())) == 0  # the same in all processes
    fresh = run.initial_state() if begins else None
    # Not before all input was read: a workdir that holds a record takes no other configuration.
    record_config(config, workdir, fingerprint=trained_on.fingerprint, spec=spec)
    state: Any = restore_newest(checkpoints, run.abstract_state(), set_aside=True) or fresh
    start = int(state.step)
    if start:
        console(f"continuing {workdir} after step {start}")
    evaluate = make_evaluator(run, eval_source, spec)
    train_step, gradient_norms = run.jit_train_step(), run.jit_gradient_norms()
    batches = _batches(config, run, trained_on, spec, start)
    log = MetricLog(workdir, start_step=start)
    trace = Trace(workdir, config.log.profile)
    progress = Progress(config.steps, "training", "step", start=start)
    results, stopped, since, last = None, False, time.monotonic(), start
    step, batch, waits = start, None, Waits()
    try:
        for step in range(start + 1, config.steps + 1):
            batch = batch or layout.place(next(batches))
            logged = step % config.log.every == 0 or step == config.steps
            norms = gradient_norms(state, batch) if logged and config.log.gradients else {}
            trace.before(step)
            state, logs = train_step(state, batch)
            with waits.on("data"):  # while the device works
                batch = layout.place(next(batches)) if step < config.steps else None
            # Reading a value every step keeps the host from running ahead (and two CPU processes
            # from hanging). It costs the time that a dispatch takes.
            with waits.on("device"):
                errors = {name: float(logs[f"{name}/ce"]) for name in STUDENTS}
            trace.after(step)
            note = "  ".join(f"{name} ce {value:.3f}" for name, value in errors.items())
            progress.advance(note=note)
            if int(logs["skipped_in_a_row"]) > 0:
                complain(step, logs, limit=config.max_skipped)
            if logged:
                speed = (step - last) * config.batch_size / (time.monotonic() - since)
                log.write(step, {**logs, **norms, "images_per_s": speed, **waits.means()})
                since, last = time.monotonic(), step
            final = step == config.steps
            stopped = stop.asked() and not final
            scored = config.eval.every > 0 and step % config.eval.every == 0
            results = None
            if final or (scored and not stopped):  # there may be seconds left, just to save
                results = evaluate(state, stop.asked)
                stopped = results is None
            if results:
                log.write(step, eval_scalars(results))
                console(f"step {step}: {summary(results)}")
                checkpoints.save(step, state, metrics={METRIC: mean_miou(results)})
                since, last = time.monotonic(), step
            elif checkpoints.due(step) or stopped:
                checkpoints.save(step, state)
            if stopped:
                break
        if step == start and not stopped:  # the run had already ended
            results = evaluate(state, stop.asked)
            stopped = results is None
        checkpoints.close()
    except BaseException:
        if jax.process_count() == 1:  # with others, it could wait for one that is gone
            # A save under way must end before the lock on the folder is let go of.
            with contextlib.suppress(Exception):
                checkpoints.close()
        raise
    finally:
        batches.close()
        progress.close()
        trace.close()
        log.close()
    if stopped:
        console(f"stopped as asked; the same command continues {workdir} after step {step}")
        return None
    if jax.process_index() == 0 and results:
        _show(workdir, run, state, results, eval_source, spec)
    return results


def _batches(
    config: Any, run: Run, trained_on: TrainingData, spec: data.DatasetSpec, start: int
) -> TrainBatches:
    """This process's part of the batches that come after step `start`."""
    return data.train_batches(
        trained_on.source,
        spec,
        batch_size=config.batch_size,
        crop=tuple(config.data.crop),
        scale_range=tuple(config.data.scale),
        flip=config.data.flip,
        cat_max_ratio=config.data.cat_max_ratio,
        seed=config.seed,
        start_step=start,
        workers=config.data.workers,
        rows=run.layout.rows,
        rates=trained_on.rates,
        cache=config.data.cache,
    )


def _show(
    workdir: Path, run: Run, state: Any, results: dict, source: data.Source, spec: data.DatasetSpec
) -> None:
    """Write the results and the pictures of a run that has ended."""
    replace_text(workdir / "results.json", json.dumps(results, indent=1) + "\n")

    def draw_samples(path: Path) -> None:
        pictures.draw_samples(
            path,
            run.pair,
            state,
            source,
            spec,
            rows=run.config.log.samples,
            short_side=run.config.eval.short_side,
        )

    def draw_teaching(path: Path) -> None:
        charts.draw_teaching(path, {"": [read_log(workdir / "metrics.jsonl")]})

    for name, draw in (("samples.png", draw_samples), ("teaching.png", draw_teaching)):
        if problem := drawing.attempt(workdir / name, draw):
            console(problem)
    console(f"{workdir}/results.json and samples.png: {summary(results)}")


def eval_scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """{"eval/<output>/<score>": value} of the scores that exist."""
    return {
        f"eval/{name}/{key}": results[name][key]
        for name in OUTPUTS
        for key in ("miou", "pixel_accuracy", "mean_accuracy")
        if results[name][key] is not None
    }


def mean_miou(results: Mapping[str, Any]) -> float:
    """What the best checkpoint is chosen by: the mean of both students' mIoU."""
    return sum(results[name]["miou"] or 0.0 for name in STUDENTS) / len(STUDENTS)


def complain(step: int, logs: Mapping[str, Any], *, limit: int) -> None:
    """Say which terms of a skipped step were not finite.

    Args:
      step: its number.
      logs: of the step.
      limit: of steps in a row.

    Raises:
      RunError: as many steps in a row were skipped as `limit` allows.
    """
    bad = {key: float(value) for key, value in logs.items() if not math.isfinite(float(value))}
    terms = {key: value for key, value in bad.items() if not key.endswith("/total")} or bad
    which = ", ".join(f"{key} is {value}" for key, value in terms.items())
    in_a_row = int(logs["skipped_in_a_row"])
    if in_a_row < limit:
        console(f"step {step} skipped: {which}")
        return
    raise RunError(
        f"step {step}: {which}, {in_a_row} steps skipped in a row (config.max_skipped = "
        f"{limit}). The last good state is that after step {step - in_a_row}; what usually helps: "
        "a lower lr or clip_norm of that student, a longer warm-up, precision=float32"
    )
