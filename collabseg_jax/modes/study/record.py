"""The record of a study: `config.json`, what its runs share, and `runs.jsonl`, one line a run.

A copy of these two files continues the study: the runs in it count as finished.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from collabseg_jax.errors import InputError
from collabseg_jax.run.config import flatten
from collabseg_jax.run.console import console
from collabseg_jax.run.files import replace_text
from collabseg_jax.run.record import FORMAT

SHARED_KEYS = ("format", "spec", "versions")  # of a run's config.json; a line has what differs
LINE_KEYS = ("arm", "seed", "differences", "data_fingerprint", "commit", "results")


class Entry(NamedTuple):
    """What is kept of a finished run.

    Attributes:
      record: what the run's config.json holds.
      results: what its results.json holds.
    """

    record: dict[str, Any]
    results: dict[str, Any]


def read_runs(workdir: Path) -> dict[tuple[str, int], Entry]:
    """The runs of `runs.jsonl`, in its order.

    A last line that was cut short is dropped, so that its run is done again.

    Args:
      workdir: of the study.

    Returns:
      {(arm, seed): Entry}; {} if there is no record yet.

    Raises:
      InputError: a file of the record is missing or damaged, or is not that of a study.
    """
    shared, path = _read_shared(workdir), workdir / "runs.jsonl"
    if not path.exists():
        return {}
    if not shared:
        raise InputError(f"{path} is there without config.json, expected both")
    entries: dict[tuple[str, int], Entry] = {}
    lines = path.read_text().splitlines()
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise InputError(f"{path}, line {number}: {error}, expected JSON") from error
            console(f"{path}, line {number} is cut short; its run is done again")
            break
        if missing := [key for key in LINE_KEYS if key not in line]:
            raise InputError(f"{path}, line {number} has no {' and no '.join(missing)}")
        entries[line["arm"], line["seed"]] = _join(shared, line)
    return entries


def write_runs(workdir: Path, config: Any, entries: Mapping[tuple[str, int], Entry]) -> None:
    """Replace `runs.jsonl`, whole or not at all; write `config.json` if there is none.

    Args:
      workdir: of the study.
      config: `config.run` of the study: what the differences of each run refer to.
      entries: {(arm, seed): Entry}, all runs of the record.

    Raises:
      RunError: a file cannot be written.
    """
    if not entries and not (workdir / "runs.jsonl").exists():
        return
    shared = _read_shared(workdir)
    if not shared:
        first = next(iter(entries.values())).record
        shared = {key: first.get(key) for key in SHARED_KEYS}
        shared |= {"format": FORMAT, "config": unflatten_dict(flatten(config), sep=".")}
        replace_text(workdir / "config.json", json.dumps(shared, indent=1) + "\n")
    lines = [_line(shared, *of, entry) for of, entry in entries.items()]
    replace_text(workdir / "runs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _read_shared(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    shared = json.loads(path.read_text()) if path.exists() else {}
    if "data_fingerprint" in shared:
        raise InputError(
            f"{path} is that of a run, expected that of a study; give another --workdir"
        )
    return shared


def _line(shared: dict[str, Any], arm: str, seed: int, entry: Entry) -> dict[str, Any]:
    """What a run has to itself; None is said for a key that it lacks."""
    base = flatten_dict(shared["config"], sep=".")
    record = {"format": 0} | entry.record
    own = flatten_dict(record["config"], sep=".")
    keys = [*own, *(key for key in base if key not in own)]
    return {
        "arm": arm,
        "seed": seed,
        "differences": {key: own.get(key) for key in keys if own.get(key) != base.get(key)},
        "data_fingerprint": record["data_fingerprint"],
        "commit": record.get("commit"),
        **{key: record.get(key) for key in SHARED_KEYS if record.get(key) != shared.get(key)},
        "results": entry.results,
    }


def _join(shared: dict[str, Any], line: dict[str, Any]) -> Entry:
    """The inverse of `_line`."""
    flat = flatten_dict(shared["config"], sep=".") | line["differences"]
    own = {key: value for key, value in flat.items() if value is not None}
    record = {key: shared.get(key) for key in SHARED_KEYS} | line
    record["config"] = unflatten_dict(own, sep=".")
    kept = (*SHARED_KEYS, "config", "data_fingerprint", "commit")
    known = {key: record[key] for key in kept if record[key] is not None}
    return Entry(known, line["results"])
