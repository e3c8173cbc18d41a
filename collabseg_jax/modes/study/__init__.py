"""`--mode=study`: arms times seeds, each run a process of its own; what is finished is kept.

A run works in WORKDIR/ARM/SEED, which is an ordinary workdir: it continues where it was, and the
study only reads there. What is finished also goes into the study's record (`record.py`).
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from collabseg_jax.modes.study import comparison
from collabseg_jax.modes.study.jobs import places, usable_cores, visible_gpus, work
from collabseg_jax.modes.study.planning import (
    Trial,
    chosen_arms,
    plan,
    refuse_other,
    refuse_other_data,
)
from collabseg_jax.modes.study.record import Entry, read_runs, write_runs
from collabseg_jax.report import charts, drawing
from collabseg_jax.run.console import console
from collabseg_jax.run.distributed import StopSignal
from collabseg_jax.run.files import writing
from collabseg_jax.run.log import read_log
from collabseg_jax.run.record import locked

COMMAND = (sys.executable, "-m", "collabseg_jax.main")


def run(
    config: Any, workdir: str | Path, *, command: Sequence[str] = COMMAND
) -> dict[str, list[str]]:
    """`--mode=study`: do the runs that are missing; then write the record, tables and figures.

    Args:
      config: as in `configs/studies/base.py`.
      workdir: of the study. A copy of a record, as in docs/studies, counts as finished runs.
      command: what a run's flags are given to.

    Returns:
      {"failed": the runs, as ARM/SEED, that ended without results of themselves}.

    Raises:
      InputError: an arm is invalid, or what is known of a run has another configuration or other
        data; nothing was started then. Also if a run that has just ended had other data than those
        before; the others were asked to save then.
      RunError: a run in `workdir`, or another study there, is still at work.
    """
    # The devices are for the runs; this process would take a GPU's memory by merely asking.
    jax.config.update("jax_platforms", "cpu")
    workdir = Path(workdir)
    trials = plan(config, workdir)
    room = places(config.jobs, visible_gpus(), usable_cores())
    for trial in trials:
        refuse_other(trial)
    refuse_other_data(trials)
    only = chosen_arms(config)
    todo = [trial for trial in trials if trial.arm in only and not trial.finished]
    if config.dry_run:
        for trial in todo:
            print(shlex.join([*command, *trial.flags]))
        return {"failed": []}
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with locked(workdir), StopSignal() as stop:
        for trial in todo:
            if trial.workdir.exists():  # a study that was killed leaves its runs at work
                with locked(trial.workdir):
                    pass
        done = sum(trial.finished for trial in trials)
        console(f"{workdir}: {len(todo)} runs to do, {done} of {len(trials)} finished before")
        failed = work(todo, room, command, stop, lambda: _report(config, trials, workdir))
        _report(config, trials, workdir)
    missing = [str(trial) for trial in trials if not trial.finished]
    console(f"{workdir}/study.md: " + (f"without {', '.join(missing)}" if missing else "complete"))
    return {"failed": failed}


def _report(config: Any, trials: Sequence[Trial], workdir: Path) -> None:
    refuse_other_data(trials)  # it may have changed since the start
    entries = read_runs(workdir)
    for trial in trials:
        trained = trial.record()
        if trained is not None and trial.finished:
            entries[trial.arm, trial.seed] = Entry(trained, trial.results())
        else:  # its results were moved away since
            entries.pop((trial.arm, trial.seed), None)
    write_runs(workdir, config.run, entries)
    finished = [trial for trial in trials if (trial.arm, trial.seed) in entries]
    results: comparison.Results = {arm: {} for arm in config.arms}
    logs: dict[str, list[list[dict[str, Any]]]] = {}
    for trial in finished:
        results[trial.arm][trial.seed] = entries[trial.arm, trial.seed].results
        if log := read_log(trial.workdir / "metrics.jsonl"):  # a copied record has none
            logs.setdefault(trial.arm, []).append(log)
    commits = {entries[trial.arm, trial.seed].record.get("commit") for trial in finished}
    comparison.write(
        workdir,
        results,
        seeds=tuple(config.seeds),
        reference=config.reference,
        metric=config.metric,
        facts={
            "config": config.base,
            "scored on": f"`{config.run.eval.split}` after {config.run.steps} steps",
            "commits": ", ".join(sorted((c or "unknown")[:12] for c in commits)) or "none yet",
        },
        arms={arm: dict(changes) for arm, changes in config.arms.items()},
    )
    if logs:
        curves = {arm: logs[arm] for arm in config.arms if arm in logs}
        problem = drawing.attempt(
            workdir / "teaching.png", lambda path: charts.draw_teaching(path, curves)
        )
        if problem:
            console(problem)
