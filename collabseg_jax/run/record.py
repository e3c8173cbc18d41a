"""The folder of a run: who may use it, and the record of what is trained there."""

import contextlib
import fcntl
import json
import os
import platform
import re
import socket
import subprocess
import zlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import ml_collections
from flax.traverse_util import unflatten_dict

from collabseg_jax import data
from collabseg_jax.collab.pair import STUDENTS
from collabseg_jax.errors import InputError, RunError
from collabseg_jax.run import build as experiment
from collabseg_jax.run import distributed
from collabseg_jax.run.files import replace_text, writing

# Keys that older workdirs lack, and the values at which training is what it was without them.
ADDED_KEYS = {
    "data.split": "train",
    "data.subset": "",
    "data.cache": False,
    "data.oversample": 0.0,
    "data.hue": 0.0,
    "losses.ce.class_weights": "",
    **{
        f"losses.{row}.{student}": 1.0
        for row in ("ce", "hfd", "bsd_region", "bsd_pixel", "dml")
        for student in STUDENTS
    },
    "bridges.borrowed_grad": False,
    "bridges.mask_ratio": 0.75,
    "losses.bsd_region.space": "common",
    **{f"{student}.frozen": False for student in STUDENTS},
}
FORMAT = 1  # of config.json; one more when a key moves or gets another meaning
# Keys that records of format 0 have under another name: {theirs: today's}.
MOVED_KEYS = {
    "losses.hfd.borrowed_grad": "bridges.borrowed_grad",
    "losses.mgd.mask_ratio": "bridges.mask_ratio",
}
LIBRARIES = ("collabseg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def locked(workdir: Path):
    """Keep other runs out of a workdir while entered; process 0 holds the lock for all.

    The system lets go of it when the process dies, however it dies.

    Raises:
      RunError: another run is at work there.
    """
    if jax.process_index() != 0:
        yield
        return
    with writing(workdir / "lock") as path:
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f"{workdir} is in use by {file.read() or 'another run'}; wait until it has ended, "
                "or give another --workdir"
            ) from None
        except OSError as error:
            raise RunError(f"{path}: cannot be locked: {error.strerror}") from error
        with writing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def refuse_other_config(config, workdir: Path, *, also: Sequence[str] = ()) -> None:
    """InputError if the workdir was trained with another configuration, naming the keys.

    Args:
      also: free keys that are compared too, unless the workdir is older than they are.
    """
    path = workdir / "config.json"
    if path.exists():
        refuse_other_record(config, json.loads(path.read_text()), str(workdir), also=also)


def refuse_other_record(
    config: Any, record: dict[str, Any], where: str, *, also: Sequence[str] = ()
) -> None:
    """InputError if a run was trained with another configuration, naming the keys.

    Args:
      config: of the run that is wanted.
      record: what config.json of the run that was trained holds.
      where: that run's name in the error.
      also: free keys that are compared too, unless the record is older than they are.
    """
    now = experiment.flatten(config)
    record = in_todays_format(record, where)
    before = ADDED_KEYS | experiment.flatten_tree(record["config"])
    for key, value in now.items():
        row = re.match(r"losses\.\w+\.", key)
        if row and f"{row[0]}weight" not in before and now[f"{row[0]}weight"] == 0:
            before[key] = value  # a loss younger than the workdir, and not used
    compared = {key for key in before.keys() | now.keys() if not experiment.is_free(key)}
    compared |= before.keys() & set(also)
    differing = [
        f"{key} ({before.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} here)"
        for key in sorted(compared)
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise InputError(
            f"{where} was trained with another configuration: {', '.join(differing)}; give "
            "another --workdir, or remove this one"
        )


def in_todays_format(record: dict[str, Any], where: str) -> dict[str, Any]:
    """What config.json of a run holds, with today's keys.

    Raises:
      InputError: a later version wrote it.
    """
    number = record.get("format", 0)
    if number > FORMAT:
        raise InputError(
            f"{where} has format {number}, expected at most {FORMAT}: a later version wrote it"
        )
    flat = experiment.flatten_tree(record["config"])
    keys = {MOVED_KEYS.get(key, key): value for key, value in flat.items()}
    return record | {"format": FORMAT, "config": unflatten_dict(keys, sep=".")}


def record_config(config, workdir: Path, *, fingerprint: str, spec: data.DatasetSpec) -> None:
    """Write `config.json`: the config, versions, commit, which data it is and what is in it.

    Raises:
      ValueError: the workdir was trained on other data, or the processes have different data.
    """
    trained = {k: v for k, v in experiment.flatten(config).items() if not experiment.is_free(k)}
    for what, value in (("data", fingerprint), ("configurations", json.dumps(trained))):
        mine = zlib.crc32(value.encode()) >> 1  # 31 bits, as JAX has no int64 by default
        if distributed.any_process(distributed.from_first(mine) != mine):
            raise InputError(
                f"the processes have different {what} (here: {value}), expected the same in all"
            )
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
    record = {
        "format": FORMAT,
        "config": config.to_dict(),
        "data_fingerprint": fingerprint,
        "spec": spec.to_record(),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in LIBRARIES},
        },
    }
    replace_text(path, json.dumps(record, indent=1) + "\n")


def _commit() -> str | None:
    """The commit of this code; None where there is no repository, or no git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def recorded_config(workdir, given) -> ml_collections.ConfigDict:
    """The config that a workdir was trained with, but for the free keys that are given.

    Args:
      given: a config of any keys, those of the command line; what it lacks is as recorded, but for
        the mesh: that is all devices along `data`, for they need not be those of the training.
    Raises:
      InputError: nothing was trained there, or a key that is not free is given another value.
    """
    config = ml_collections.ConfigDict(_record(workdir)["config"])
    recorded = experiment.flatten(config)
    sections = {key.rpartition(".")[0] for key in recorded}  # a loss may be younger than the run
    added = {k: v for k, v in ADDED_KEYS.items() if k.rpartition(".")[0] in sections}
    config.update_from_flattened_dict({k: v for k, v in added.items() if k not in recorded})
    recorded = experiment.flatten(config)
    config.mesh = ml_collections.ConfigDict({"data": -1, "space": 1})
    for key, value in experiment.flatten(given).items():
        if experiment.is_free(key):
            section = key.split(".")[0]
            if "." in key and section not in config:  # trained before there was this section
                config[section] = ml_collections.ConfigDict()
            config.update_from_flattened_dict({key: value})
        elif recorded.get(key) != value:
            raise InputError(
                f"config.{key} is {value!r}, but {workdir} was trained with {recorded.get(key)!r}: "
                f"expected that, or only keys of {', '.join(experiment.FREE_KEYS)}"
            )
    return config


def recorded_spec(workdir) -> data.DatasetSpec:
    """What the data set is that a workdir was trained on, without the data.

    Raises:
      ValueError: nothing was trained there.
    """
    record = _record(workdir)
    # What an earlier version did not record is as it is today.
    today = data.SPECS[record["config"]["data"]["name"]].to_record()
    return data.DatasetSpec.from_record(today | record.get("spec", {}))


def _record(workdir) -> dict:
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise InputError(f"{path} not found: nothing was trained in this workdir yet")
    return in_todays_format(json.loads(path.read_text()), str(path))
