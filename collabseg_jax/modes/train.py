"""The training loop: wiring only."""

import contextlib
import dataclasses
import json
import math
import time
from pathlib import Path

import jax

from collabseg_jax import data
from collabseg_jax.collab import custom
from collabseg_jax.collab import sharding as shardings
from collabseg_jax.collab import step as steps
from collabseg_jax.collab.inference import OUTPUTS
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.errors import RunError
from collabseg_jax.modes import evaluate
from collabseg_jax.report import charts, pictures
from collabseg_jax.run import build as experiment
from collabseg_jax.run import distributed
from collabseg_jax.run import record as workdirs
from collabseg_jax.run import records as training_data
from collabseg_jax.run.checkpoint import METRIC, Checkpoints
from collabseg_jax.run.console import Progress, Waits, console
from collabseg_jax.run.distributed import StopSignal
from collabseg_jax.run.files import replace_text, writing
from collabseg_jax.run.log import MetricLog, read_log


def run(config, workdir) -> dict | None:
    """`--mode=train`: train, or continue, in `workdir`.

    Returns:
      what `results.json` holds; None if SIGTERM or SIGHUP ended the run early, its state saved.
    """
    workdir = Path(workdir)
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with workdirs.locked(workdir), StopSignal() as stop:
        return _run(config, workdir, stop)


def _run(config, workdir: Path, stop: StopSignal) -> dict | None:
    workdirs.refuse_other_config(config, workdir)
    spec = experiment.find_spec(config)
    built = experiment.build(config, num_classes=spec.num_classes)
    if "custom" in built.objective.terms:
        custom.load(config.losses.custom.fn)  # before any work: it may not be there
    mesh = shardings.make_mesh(**config.mesh)
    layout = shardings.train_layout(mesh, batch_size=config.batch_size, crop=config.data.crop)
    prepared = experiment.prepare_data(config)
    spec = prepared.spec  # of the copy: label files of a data set may vary
    trained_on = training_data.choose(config, prepared)
    eval_source = prepared.source(config.eval.split)
    device = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    console(f"training on {device} device(s) of {jax.process_count()} process(es)")
    checkpoints = Checkpoints(workdir, every=config.checkpoint.every, keep=config.checkpoint.keep)
    begins = distributed.from_first(len(checkpoints.steps())) == 0  # the same in all processes
    fresh = experiment.initial_state(config, built, mesh) if begins else None
    # Not before all input was read: a workdir that holds a record takes no other configuration.
    workdirs.record_config(config, workdir, fingerprint=trained_on.fingerprint, spec=spec)
    like = experiment.abstract_state(config, built, mesh)
    state = experiment.restore_newest(checkpoints, like, set_aside=True) or fresh
    start = int(state.step)
    if start:
        console(f"continuing {workdir} after step {start}")
    evaluator = evaluate.make(config, built.pair, eval_source, spec, mesh)
    stepped = {
        "pair": built.pair,
        "objective": dataclasses.replace(built.objective, class_weights=trained_on.class_weights),
        "jitter": built.jitter,
    }
    train_step = steps.jit_train_step(layout, optimizers=built.optimizers, **stepped)
    gradient_norms = steps.jit_gradient_norms(layout, **stepped)  # compiled if it is called
    batches = data.train_batches(
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
        rows=layout.rows,
        rates=trained_on.rates,
        cache=config.data.cache,
    )
    log = MetricLog(workdir, start_step=start)
    progress = Progress(config.steps, "training", "step", start=start)
    results, stopped, since, last = None, False, time.monotonic(), start
    step, batch, waits = start, None, Waits()
    try:
        for step in range(start + 1, config.steps + 1):
            batch = batch or layout.place(next(batches))
            logged = step % config.log.every == 0 or step == config.steps
            norms = gradient_norms(state, batch) if logged and config.log.gradients else {}
            state, logs = train_step(state, batch)
            with waits.on("data"):  # while the device works
                batch = layout.place(next(batches)) if step < config.steps else None
            # Reading a value every step keeps the host from running ahead (and two CPU processes
            # from hanging). It costs the time that a dispatch takes.
            with waits.on("device"):
                errors = {name: float(logs[f"{name}/ce"]) for name in STUDENTS}
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
                results = evaluator(state, stop.asked)
                stopped = results is None
            if results:
                log.write(step, eval_scalars(results))
                console(f"step {step}: {evaluate.summary(results)}")
                checkpoints.save(step, state, metrics={METRIC: mean_miou(results)})
                since, last = time.monotonic(), step
            elif checkpoints.due(step) or stopped:
                checkpoints.save(step, state)
            if stopped:
                break
        if step == start and not stopped:  # the run had already ended
            results = evaluator(state, stop.asked)
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
        log.close()
    if stopped:
        console(f"stopped as asked; the same command continues {workdir} after step {step}")
        return None
    if jax.process_index() == 0:
        replace_text(workdir / "results.json", json.dumps(results, indent=1) + "\n")
        with writing(workdir / "samples.png") as path:
            pictures.draw_samples(
                path,
                built.pair,
                state,
                eval_source,
                spec,
                rows=config.log.samples,
                short_side=config.eval.short_side,
            )
        with writing(workdir / "teaching.png") as path:
            charts.draw_teaching(path, {"": [read_log(workdir / "metrics.jsonl")]})
        console(f"{workdir}/results.json and samples.png: {evaluate.summary(results)}")
    return results


def eval_scalars(results: dict) -> dict:
    """{"eval/<output>/<score>": value} of the scores that exist."""
    return {
        f"eval/{name}/{key}": results[name][key]
        for name in OUTPUTS
        for key in ("miou", "pixel_accuracy", "mean_accuracy")
        if results[name][key] is not None
    }


def mean_miou(results: dict) -> float:
    """What the best checkpoint is chosen by: the mean of both students' mIoU."""
    return sum(results[name]["miou"] or 0.0 for name in STUDENTS) / len(STUDENTS)


def complain(step: int, logs: dict, *, limit: int) -> None:
    """Say which terms of a skipped step were not finite.

    Raises:
      RunError: as many steps in a row were skipped as `limit` allows.
    """
    bad = {key: float(value) for key, value in logs.items() if not math.isfinite(float(value))}
    terms = {key: value for key, value in bad.items() if not key.endswith("/total")} or bad
    found = ", ".join(f"{key} is {value}" for key, value in terms.items())
    in_a_row = int(logs["skipped_in_a_row"])
    if in_a_row < limit:
        console(f"step {step} skipped: {found}")
        return
    raise RunError(
        f"step {step}: {found}, {in_a_row} steps skipped in a row (config.max_skipped = "
        f"{limit}). The last good state is that after step {step - in_a_row}; what usually helps: "
        "a lower lr or clip_norm of that student, a longer warm-up, precision=float32"
    )
