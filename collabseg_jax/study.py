"""`--mode=study`: arms times seeds, each run a process of its own; what is finished is kept.

A run lives in WORKDIR/ARM/SEED and is an ordinary workdir: it continues where it was, and its
results are only ever read here.
"""

import collections
import dataclasses
import difflib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
from tqdm import tqdm

from collabseg_jax import charts, comparison, config_file, evaluate, experiment
from collabseg_jax import workdir as workdirs
from collabseg_jax.distributed import StopSignal
from collabseg_jax.errors import InputError, unknown
from collabseg_jax.report import console, read_log, writing

COMMAND = (sys.executable, "-m", "collabseg_jax.main")
# Keys that may change from start to start, but not between the scores of a table.
SCORED_KEYS = (
    *("eval.split", "eval.short_side", "eval.window", "eval.stride", "eval.scales", "eval.flip"),
    "data.subset",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm with one seed: its whole config, its folder, and the flags that say both."""

    arm: str
    seed: int
    config: object
    workdir: Path
    flags: tuple[str, ...]

    def __str__(self) -> str:
        """ARM/SEED."""
        return f"{self.arm}/{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its results are there."""
        return (self.workdir / "results.json").exists()


def run(config, workdir, *, command=COMMAND) -> dict:
    """`--mode=study`: what is missing of all runs, then `study.md`, `.csv` and `.png`.

    Args:
      config: as in `configs/studies/base.py`.
      command: what a run's flags are given to.
    Returns:
      {"failed": the runs, as ARM/SEED, that ended without results of themselves}.
    Raises:
      InputError: an arm that cannot be, or a run in `workdir` that has another configuration;
        nothing was started then.
    """
    # The devices are for the runs; this process would take a GPU's memory by merely asking.
    jax.config.update("jax_platforms", "cpu")
    workdir = Path(workdir)
    runs = plan(config, workdir)
    groups = device_groups(config.jobs, visible_gpus())
    for one in runs:
        _refuse_other(one)
    refuse_other_data(runs)
    only = _only(config)
    todo = [one for one in runs if one.arm in only and not one.finished]
    if config.dry_run:
        for one in todo:
            print(shlex.join([*command, *one.flags]))
        return {"failed": []}
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with workdirs.locked(workdir), StopSignal() as stop:
        done = sum(one.finished for one in runs)
        console(f"{workdir}: {len(todo)} runs to do, {done} of {len(runs)} finished before")
        failed = _work(todo, groups, command, stop, lambda: _report(config, runs, workdir))
        _report(config, runs, workdir)
    missing = [str(one) for one in runs if not one.finished]
    console(f"{workdir}/study.md: " + (f"without {', '.join(missing)}" if missing else "complete"))
    return {"failed": failed}


def plan(config, workdir: Path) -> list[Run]:
    """All runs of a study, seed by seed, so that an interrupted study has comparable arms.

    Raises:
      InputError: an arm, key, value, reference, metric or seed that cannot be.
    """
    arms = dict(config.arms)
    if config.reference not in arms:
        raise unknown("config.reference", config.reference, arms)
    if config.metric not in comparison.METRICS:
        raise unknown("config.metric", config.metric, comparison.METRICS)
    seeds = list(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"config.seeds is {tuple(seeds)}, expected different numbers, at least 1")
    if not Path(config.base.split(":")[0]).is_file():
        raise InputError(f"config.base is {config.base!r}, expected a file like configs/camvid.py")
    base = experiment.flatten(config_file.load(config.base))
    configs = {arm: _with(config.run, arm, changes) for arm, changes in arms.items()}
    runs = []
    for seed in seeds:
        for arm in arms:
            one = configs[arm].copy_and_resolve_references()
            one.seed = seed
            folder = workdir / arm / str(seed)
            changed = [
                f"--config.{key}={_text(value)}"
                for key, value in experiment.flatten(one).items()
                if value != base.get(key)
            ]
            flags = (f"--config={config.base}", f"--workdir={folder}", *changed)
            runs.append(Run(arm, seed, one, folder, flags))
    return runs


def _with(base, arm: str, changes: dict):
    """The config of an arm; built once, so that its mistakes show before anything starts."""
    if not re.fullmatch(r"\w[\w.+-]*", arm):
        raise InputError(f"config.arms: {arm!r}, expected a name that can be a folder's")
    config, known = base.copy_and_resolve_references(), experiment.flatten(base)
    for key, value in changes.items():
        if key not in known or key == "seed":
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(near)}?" if key != "seed" else "; see config.seeds"
            raise InputError(f"config.arms.{arm}: no key {key!r} to change{hint}")
        try:
            config.update_from_flattened_dict({key: value})
        except TypeError:
            kind = type(known[key]).__name__
            raise InputError(f"config.arms.{arm}: {key} is {value!r}, expected {kind}") from None
    try:
        experiment.build(config, num_classes=experiment.find_spec(config).num_classes)
    except InputError as error:
        raise InputError(f"config.arms.{arm}: {error}") from error
    return config


def _text(value) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        value = tuple(value)
    return str(value).replace(" ", "") if not isinstance(value, str) else value


def _only(config) -> list[str]:
    """The arms to run."""
    names = [name.strip() for name in config.only.split(",") if name.strip()]
    for name in names:
        if name not in config.arms:
            raise unknown("arm in config.only", name, config.arms)
    return names or list(config.arms)


def _refuse_other(one: Run) -> None:
    if one.finished and not (one.workdir / "config.json").exists():
        raise InputError(f"{one.workdir} has results.json without config.json, expected both")
    workdirs.refuse_other_config(one.config, one.workdir, also=SCORED_KEYS)


def refuse_other_data(runs: list[Run]) -> None:
    """InputError if two finished runs of one arm were trained on different data."""
    first = {}
    for one in runs:
        if one.finished:
            record = json.loads((one.workdir / "config.json").read_text())
            found = record["data_fingerprint"], one.workdir
            data, where = first.setdefault(one.arm, found)
            if data != found[0]:
                raise InputError(
                    f"{one.workdir} was trained on data {found[0]}, {where} on {data}; expected "
                    "the same in all runs of an arm. Remove one of the two"
                )


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES can be set to, one GPU each; found without touching them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith(("cpu", "tpu")):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.split() if found.returncode == 0 else []


def device_groups(jobs: int, gpus: list[str]) -> list[list[str]]:
    """The GPUs of each run that works beside others; [] where JAX is to choose.

    Raises:
      InputError: more runs than GPUs, each of which would want all memory of its GPU.
    """
    jobs = jobs or len(gpus) or 1
    if jobs < 0 or (gpus and jobs > len(gpus)):
        most = f" and at most {len(gpus)}, the number of GPUs" if gpus else ""
        raise InputError(f"config.jobs is {jobs}, expected at least 0{most}")
    each = len(gpus) // jobs
    return [gpus[i * each : (i + 1) * each] for i in range(jobs)]


def _work(todo, groups, command, stop, report) -> list[str]:
    """Do the runs, one in each group of devices at a time; the names of those that failed."""
    waiting, free, working = collections.deque(todo), list(groups), []
    failed, took = [], []
    try:
        while working or (waiting and not stop.asked()):
            while waiting and free and not stop.asked():
                working.append(_Process(waiting.popleft(), free.pop(0), command))
            time.sleep(0.1)
            for process in [p for p in working if p.ended()]:
                working.remove(process)
                free.append(process.gpus)
                line = process.outcome()
                if process.run.finished:
                    took.append(time.monotonic() - process.since)
                    left = sum(took) / len(took) * (len(waiting) + len(working)) / len(groups)
                    line += f"; {len(waiting) + len(working)} to go"
                    line += f", about {tqdm.format_interval(left)}" if left else ""
                    report()
                elif not stop.asked():
                    failed.append(str(process.run))
                console(line)
            if stop.asked():
                for process in working:
                    process.ask_to_stop()
    finally:
        # Also after Ctrl-C, which does not reach the runs: they save, which takes a step or so.
        for process in working:
            process.ask_to_stop()
        for process in working:
            process.wait()
    return failed


class _Process:
    """A run at work."""

    def __init__(self, one: Run, gpus: list[str], command):
        """Start it."""
        self.run, self.gpus, self.since = one, gpus, time.monotonic()
        self._log, self._asked = one.workdir / "log.txt", False
        environment = dict(os.environ)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        with writing(self._log):
            one.workdir.mkdir(parents=True, exist_ok=True)
            log = self._log.open("a")
        with log:
            log.write(shlex.join([*command, *one.flags]) + "\n")
            log.flush()
            self._process = subprocess.Popen(
                [*command, *one.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C would end it without a save
            )
        console(f"{one}: started" + (f" on GPU {','.join(gpus)}" if gpus else ""))

    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """SIGTERM, once: the run saves and ends."""
        if not self._asked:
            self._asked = True
            self._process.terminate()

    def wait(self) -> None:
        """Until it is over."""
        self._process.wait()
        console(self.outcome())

    def outcome(self) -> str:
        """One line on how it ended."""
        if self.run.finished:
            results = json.loads((self.run.workdir / "results.json").read_text())
            took = tqdm.format_interval(time.monotonic() - self.since)
            return f"{self.run}: finished in {took}, {evaluate.summary(results)}"
        if self._asked:
            return f"{self.run}: stopped; the same command continues it"
        code = self._process.returncode
        lines = self._log.read_text(errors="replace").strip().splitlines()
        # A traceback may be followed by remarks.
        last = next((x for x in reversed(lines) if re.match(r"[\w.]*[eE]rror\b", x)), lines[-1])
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"{self.run}: failed ({how}): {last}; see {self._log}"


def _report(config, runs: list[Run], workdir: Path) -> None:
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
