"""The training loop: wiring only."""

import json
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import jax

from collabseg_jax import data, evaluate, experiment, pictures
from collabseg_jax import sharding as shardings
from collabseg_jax import step as steps
from collabseg_jax.checkpoint import METRIC, Checkpoints
from collabseg_jax.errors import InputError
from collabseg_jax.pair import STUDENTS
from collabseg_jax.report import MetricLog, Progress, console, replace_text


def run(config, workdir) -> dict:
    """`--mode=train`: train, or continue, in `workdir`; returns what `results.json` holds."""
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    refuse_other_config(config, workdir)
    spec = data.get_spec(config.data.name)
    built = experiment.build(config, num_classes=spec.num_classes)
    mesh = shardings.data_mesh()
    shardings.check_batch_size(config.batch_size, mesh, "config.batch_size")
    prepared = experiment.prepare_data(config)
    record_config(config, workdir, fingerprint=prepared.fingerprint)
    train_source = prepared.source("train")
    eval_source = prepared.source(config.eval.split)
    checkpoints = Checkpoints(workdir, every=config.checkpoint.every, keep=config.checkpoint.keep)
    latest = checkpoints.latest_step()
    state = experiment.initial_state(config, built, mesh, pretrained=latest is None)
    if latest is not None:
        state = checkpoints.restore(latest, state)
        console(f"continuing {workdir} after step {latest}")
    start = int(state.step)
    evaluator = evaluate.Evaluator(
        built.pair,
        eval_source,
        spec,
        mesh,
        split=config.eval.split,
        batch_size=config.eval.batch_size,
        max_shapes=config.eval.max_shapes,
    )
    train_step = steps.jit_train_step(
        mesh,
        pair=built.pair,
        objective=built.objective,
        optimizers=built.optimizers,
        jitter={k: config.data[k] for k in ("brightness", "contrast", "saturation")},
    )
    batches = data.train_batches(
        train_source,
        spec,
        batch_size=config.batch_size,
        crop=tuple(config.data.crop),
        scale_range=tuple(config.data.scale),
        flip=config.data.flip,
        cat_max_ratio=config.data.cat_max_ratio,
        seed=config.seed,
        start_step=start,
        workers=config.data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    log = MetricLog(workdir, start_step=start)
    progress = Progress(config.steps, "training", "step", start=start)
    results, since, last = None, time.monotonic(), start
    try:
        for step in range(start + 1, config.steps + 1):
            batch = shardings.global_batch(next(batches), mesh)
            state, logs = train_step(state, batch)
            # Reading a value every step keeps the host from running ahead (and two CPU processes
            # from hanging); it costs nothing where the step is longer than the dispatch.
            losses = {name: float(logs[f"{name}/ce"]) for name in STUDENTS}
            note = "  ".join(f"{name} ce {value:.3f}" for name, value in losses.items())
            progress.advance(note=note)
            if step % config.log.every == 0 or step == config.steps:
                speed = (step - last) * config.batch_size / (time.monotonic() - since)
                log.write(step, {**logs, "images_per_s": speed})
                since, last = time.monotonic(), step
            final = step == config.steps
            scored = config.eval.every > 0 and step % config.eval.every == 0
            if final or scored:
                results = evaluator(state)
                log.write(step, eval_scalars(results))
                console(f"step {step}: {evaluate.summary(results)}")
                checkpoints.save(step, state, metrics={METRIC: mean_miou(results)})
                since, last = time.monotonic(), step
            elif checkpoints.due(step):
                checkpoints.save(step, state)
        if results is None:  # the run had already ended
            results = evaluator(state)
    finally:
        batches.close()
        progress.close()
        log.close()
        checkpoints.close()
    if jax.process_index() == 0:
        replace_text(workdir / "results.json", json.dumps(results, indent=1) + "\n")
        pictures.draw_samples(
            workdir / "samples.png", built.pair, state, eval_source, spec, rows=config.log.samples
        )
        console(f"{workdir}/results.json and samples.png: {evaluate.summary(results)}")
    return results


def eval_scalars(results: dict) -> dict:
    """{"eval/<output>/<score>": value} of the scores that exist."""
    return {
        f"eval/{name}/{key}": results[name][key]
        for name in evaluate.OUTPUTS
        for key in ("miou", "pixel_accuracy", "mean_accuracy")
        if results[name][key] is not None
    }


def mean_miou(results: dict) -> float:
    """What the best checkpoint is chosen by: the mean of both students' mIoU."""
    return sum(results[name]["miou"] or 0.0 for name in STUDENTS) / len(STUDENTS)


def refuse_other_config(config, workdir: Path) -> None:
    """InputError if the workdir was trained with another configuration, naming the keys."""
    path = workdir / "config.json"
    if not path.exists():
        return
    before = experiment.flatten_tree(json.loads(path.read_text())["config"])
    now = experiment.flatten(config)
    differing = [
        f"{key} ({before.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} here)"
        for key in sorted(before.keys() | now.keys())
        if not experiment.is_free(key) and before.get(key) != now.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} was trained with another configuration: {', '.join(differing)}; give "
            "another --workdir, or remove this one"
        )


def record_config(config, workdir: Path, *, fingerprint: str) -> None:
    """Write `config.json`: the config, versions, commit, and which data it is.

    Raises:
      ValueError: the workdir was trained on other data.
    """
    path = workdir / "config.json"
    if path.exists():
        before = json.loads(path.read_text())["data_fingerprint"]
        if before != fingerprint:
            raise InputError(
                f"{workdir} was trained on data {before}, found {fingerprint}; give another "
                "--workdir, or the data as it was"
            )
        return
    if jax.process_index() != 0:
        return
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    names = ("collabseg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    record = {
        "config": config.to_dict(),
        "data_fingerprint": fingerprint,
        "commit": git.stdout.strip() or None,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in names},
        },
    }
    replace_text(path, json.dumps(record, indent=1) + "\n")
