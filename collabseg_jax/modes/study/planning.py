"""What a study consists of: its runs, and whether what there is of them belongs to it."""

import dataclasses
import difflib
import json
import re
from pathlib import Path

from collabseg_jax.errors import InputError, unknown
from collabseg_jax.modes.study import comparison
from collabseg_jax.run import build as experiment
from collabseg_jax.run import config as config_file
from collabseg_jax.run import record as workdirs

# Keys that may change from start to start, but not between the scores of a table.
SCORED_KEYS = (
    *("eval.split", "eval.short_side", "eval.window", "eval.stride", "eval.scales", "eval.flip"),
    "data.subset",
)
DATA_KEYS = ("name", "raw_dir", "dir", "split", "subset")  # of config.data: which data it is


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


def chosen_arms(config) -> list[str]:
    """The arms to run."""
    names = [name.strip() for name in config.only.split(",") if name.strip()]
    for name in names:
        if name not in config.arms:
            raise unknown("arm in config.only", name, config.arms)
    return names or list(config.arms)


def refuse_other(one: Run) -> None:
    """InputError if what is in its workdir is of another configuration."""
    if one.finished and not (one.workdir / "config.json").exists():
        raise InputError(f"{one.workdir} has results.json without config.json, expected both")
    workdirs.refuse_other_config(one.config, one.workdir, also=SCORED_KEYS)
    if one.finished:  # scored again since, perhaps
        results = json.loads((one.workdir / "results.json").read_text())
        scored = {"split": results.get("split"), **results.get("inference", {})}
        expected = experiment.flatten(one.config)
        for key, found in scored.items():
            if found is not None and found != expected[f"eval.{key}"]:
                raise InputError(
                    f"{one.workdir}/results.json was scored with eval.{key} {found!r}, expected "
                    f"{expected[f'eval.{key}']!r}; move it away to have the run score itself again"
                )


def refuse_other_data(runs: list[Run]) -> None:
    """InputError if two runs whose config names the same data were trained on different data."""
    first = {}
    for one in runs:
        path = one.workdir / "config.json"
        if path.exists():
            found = json.loads(path.read_text())["data_fingerprint"], one.workdir
            named = tuple(one.config.data[key] for key in DATA_KEYS)
            data, where = first.setdefault(named, found)
            if data != found[0]:
                raise InputError(
                    f"{one.workdir} was trained on data {found[0]}, {where} on {data}; expected "
                    "the same in all runs of a study. Remove one of the two"
                )
