"""What a study consists of: its trials, and whether what is known of them belongs to it."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collabseg_jax.errors import InputError, unknown
from collabseg_jax.modes.study import comparison
from collabseg_jax.modes.study.record import Entry, read_runs
from collabseg_jax.run.build import make_run
from collabseg_jax.run.config import flatten
from collabseg_jax.run.pages import find_page, load
from collabseg_jax.run.record import refuse_other_record

# Keys that may change from start to start, but not between the scores of a table.
SCORED_KEYS = (
    *("eval.split", "eval.short_side", "eval.window", "eval.stride", "eval.scales", "eval.flip"),
    "data.subset",
)
DATA_KEYS = ("name", "raw_dir", "dir", "split", "subset")  # of config.data: which data it is


@dataclasses.dataclass(frozen=True)
class Trial:
    """One arm with one seed.

    What is known of it is in its folder or, if nothing was trained there, in the study's record.

    Attributes:
      arm: its name.
      seed: of everything that is random.
      config: all keys of its run.
      workdir: the folder of its run.
      flags: of the command that does this run.
      entry: of the study's record, if it has this trial.
    """

    arm: str
    seed: int
    config: Any
    workdir: Path
    flags: tuple[str, ...]
    entry: Entry | None = None

    def __str__(self) -> str:
        """ARM/SEED."""
        return f"{self.arm}/{self.seed}"

    @property
    def in_folder(self) -> bool:
        """Whether something was trained in its folder."""
        return any((self.workdir / name).exists() for name in ("config.json", "results.json"))

    @property
    def source(self) -> str:
        """Where what is known of it comes from, for an error."""
        if self.in_folder:
            return str(self.workdir)
        return f"{self.workdir.parents[1] / 'runs.jsonl'}: {self}"

    @property
    def finished(self) -> bool:
        """Whether it has results."""
        if self.in_folder:
            return (self.workdir / "results.json").exists()
        return self.entry is not None

    def record(self) -> dict[str, Any] | None:
        """What its config.json holds; None if nothing was trained."""
        if not self.in_folder:
            return self.entry and self.entry.record
        path = self.workdir / "config.json"
        return json.loads(path.read_text()) if path.exists() else None

    def results(self) -> dict[str, Any]:
        """What its results.json holds; the trial is finished."""
        if self.in_folder or self.entry is None:
            return json.loads((self.workdir / "results.json").read_text())
        return self.entry.results


def plan(config: Any, workdir: Path) -> list[Trial]:
    """All trials of a study, seed by seed, so that an interrupted study has comparable arms.

    Args:
      config: as in `configs/studies/base.py`.
      workdir: of the study.

    Raises:
      InputError: an arm, key, value, reference, metric or seed is invalid, or the record of the
        study is damaged.
    """
    arms = dict(config.arms)
    if config.reference not in arms:
        raise unknown("config.reference", config.reference, arms)
    if config.metric not in comparison.METRICS:
        raise unknown("config.metric", config.metric, comparison.METRICS)
    seeds = list(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"config.seeds is {tuple(seeds)}, expected different numbers, at least 1")
    if find_page(config.base.split(":")[0]) is None:
        raise InputError(f"config.base is {config.base!r}, expected a file like configs/camvid.py")
    base = flatten(load(config.base))
    configs = {arm: _with(config.run, arm, changes) for arm, changes in arms.items()}
    entries = read_runs(workdir)
    trials = []
    for seed in seeds:
        for arm in arms:
            own = configs[arm].copy_and_resolve_references()
            own.seed = seed
            folder = workdir / arm / str(seed)
            changed = [
                f"--config.{key}={_text(value)}"
                for key, value in flatten(own).items()
                if value != base.get(key)
            ]
            flags = (f"--config={config.base}", f"--workdir={folder}", *changed)
            trials.append(Trial(arm, seed, own, folder, flags, entries.get((arm, seed))))
    return trials


def _with(base: Any, arm: str, changes: Mapping[str, Any]) -> Any:
    """The config of an arm; built once, so that its mistakes show before anything starts."""
    if not re.fullmatch(r"\w[\w.+-]*", arm):
        raise InputError(f"config.arms: {arm!r}, expected a name that can be a folder's")
    config, known = base.copy_and_resolve_references(), flatten(base)
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
        make_run(config)
    except InputError as error:
        raise InputError(f"config.arms.{arm}: {error}") from error
    return config


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        value = tuple(value)
    return str(value).replace(" ", "") if not isinstance(value, str) else value


def chosen_arms(config: Any) -> list[str]:
    """The arms to run.

    Raises:
      InputError: `config.only` names an arm that the study does not have.
    """
    names = [name.strip() for name in config.only.split(",") if name.strip()]
    for name in names:
        if name not in config.arms:
            raise unknown("arm in config.only", name, config.arms)
    return names or list(config.arms)


def refuse_other(trial: Trial) -> None:
    """InputError if what is known of a trial is of another configuration, or scored otherwise."""
    trained, source = trial.record(), trial.source
    if trained is None:
        if trial.finished:
            raise InputError(f"{source} has results.json without config.json, expected both")
        return
    refuse_other_record(trial.config, trained, source, also=SCORED_KEYS)
    if not trial.finished:
        return
    results, expected = trial.results(), flatten(trial.config)
    remedy = "remove that line to have the run done again"
    if trial.in_folder:  # scored once more since, perhaps
        remedy = "move its results.json away to have the run score itself again"
    for key, value in {"split": results.get("split"), **results.get("inference", {})}.items():
        if value is not None and value != expected[f"eval.{key}"]:
            raise InputError(
                f"{source} was scored with eval.{key} {value!r}, expected "
                f"{expected[f'eval.{key}']!r}; {remedy}"
            )


def refuse_other_data(trials: Sequence[Trial]) -> None:
    """InputError if two trials whose configs name the same data were trained on different data."""
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    for trial in trials:
        trained = trial.record()
        if trained is not None:
            this = trained["data_fingerprint"], trial.source
            named = tuple(trial.config.data[key] for key in DATA_KEYS)
            data, source = first.setdefault(named, this)
            if data != this[0]:
                raise InputError(
                    f"{trial.source} was trained on data {this[0]}, {source} on {data}; expected "
                    "the same in all runs of a study. Remove one of the two"
                )
