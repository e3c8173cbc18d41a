"""`--mode=study`: arms times seeds, each run a process of its own; what is finished is kept.

A run lives in WORKDIR/ARM/SEED and is an ordinary workdir: it continues where it was, and its
results are only ever read here.
"""

import json
import shlex
import sys
from pathlib import Path

import jax

from collabseg_jax.modes.study import comparison
from collabseg_jax.modes.study.jobs import places, usable_cores, visible_gpus, work
from collabseg_jax.modes.study.planning import (
    Run,
    chosen_arms,
    plan,
    refuse_other,
    refuse_other_data,
)
from collabseg_jax.report import charts
from collabseg_jax.run import record as workdirs
from collabseg_jax.run.console import console
from collabseg_jax.run.distributed import StopSignal
from collabseg_jax.run.files import writing
from collabseg_jax.run.log import read_log

COMMAND = (sys.executable, "-m", "collabseg_jax.main")


def run(config, workdir, *, command=COMMAND) -> dict:
    """`--mode=study`: what is missing of all runs, then `study.md`, `.csv` and `.png`.

    Args:
      config: as in `configs/studies/base.py`.
      command: what a run's flags are given to.
    Returns:
      {"failed": the runs, as ARM/SEED, that ended without results of themselves}.
    Raises:
      InputError: an arm that cannot be, or a run in `workdir` that has another configuration;
        nothing was started then. Also if a run that has just ended had other data than those
        before; the others were asked to save then.
      RunError: a run in `workdir`, or another study, is still at work.
    """
    # The devices are for the runs; this process would take a GPU's memory by merely asking.
    jax.config.update("jax_platforms", "cpu")
    workdir = Path(workdir)
    runs = plan(config, workdir)
    room = places(config.jobs, visible_gpus(), usable_cores())
    for one in runs:
        refuse_other(one)
    refuse_other_data(runs)
    only = chosen_arms(config)
    todo = [one for one in runs if one.arm in only and not one.finished]
    if config.dry_run:
        for one in todo:
            print(shlex.join([*command, *one.flags]))
        return {"failed": []}
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with workdirs.locked(workdir), StopSignal() as stop:
        for one in todo:
            if one.workdir.exists():  # a study that was killed leaves its runs at work
                with workdirs.locked(one.workdir):
                    pass
        done = sum(one.finished for one in runs)
        console(f"{workdir}: {len(todo)} runs to do, {done} of {len(runs)} finished before")
        failed = work(todo, room, command, stop, lambda: _report(config, runs, workdir))
        _report(config, runs, workdir)
    missing = [str(one) for one in runs if not one.finished]
    console(f"{workdir}/study.md: " + (f"without {', '.join(missing)}" if missing else "complete"))
    return {"failed": failed}


def _report(config, runs: list[Run], workdir: Path) -> None:
    refuse_other_data(runs)  # it may have changed since the start
    found, commits = {arm: {} for arm in config.arms}, set()
    logs = {arm: [] for arm in config.arms}
    for one in runs:
        if one.finished:
            results = json.loads((one.workdir / "results.json").read_text())
            commits.add(json.loads((one.workdir / "config.json").read_text()).get("commit"))
            found[one.arm][one.seed] = results
            logs[one.arm].append(read_log(one.workdir / "metrics.jsonl"))
    comparison.write(
        workdir,
        found,
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
    with writing(workdir / "teaching.png") as path:
        charts.draw_teaching(path, {arm: entries for arm, entries in logs.items() if entries})
