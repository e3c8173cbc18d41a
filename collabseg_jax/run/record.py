"""The folder of a run: who may use it, and the record of what is trained there."""

import contextlib
import copy
import fcntl
import json
import os
import platform
import socket
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import ml_collections
from flax.traverse_util import flatten_dict

from collabseg_jax import data
from collabseg_jax.errors import InputError, RunError
from collabseg_jax.run import distributed
from collabseg_jax.run.config import FREE_KEYS, flatten, is_free
from collabseg_jax.run.files import replace_text, writing
from collabseg_jax.run.pages import load

FORMAT = 1  # of config.json; one more when a key moves or gets another meaning
LIBRARIES = ("collabseg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
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


def refuse_other_config(config: Any, workdir: Path, *, also: Sequence[str] = ()) -> None:
    """InputError if the workdir was trained with another configuration, naming the keys.

    Args:
      config: of the run that wants to train there.
      workdir: of a run; one that holds no record is fine.
      also: free keys that are compared too.
    """
    if (workdir / "config.json").exists():
        refuse_other_record(config, read_record(workdir), str(workdir), also=also)


def refuse_other_record(
    config: Any, record: dict[str, Any], where: str, *, also: Sequence[str] = ()
) -> None:
    """InputError if a run was trained with another configuration, naming the keys.

    Args:
      config: of the run that is wanted.
      record: what config.json of the run that was trained holds.
      where: that run's name in the error.
      also: free keys that are compared too.
    """
    now, before = flatten(config), recorded_keys(in_todays_format(record, where))
    differing = [
        f"{key} ({before.get(key, 'absent')!r} there, {now.get(key, 'absent')!r} here)"
        for key in sorted(before.keys() | now.keys())
        if (not is_free(key) or key in also) and before.get(key) != now.get(key)
    ]
    if differing:
        raise InputError(
            f"{where} was trained with another configuration: {', '.join(differing)}; give "
            "another --workdir, or remove this one"
        )


def recorded_keys(record: dict[str, Any]) -> dict[str, Any]:
    """{dotted key: value} of a record's config.

    What came after it has its default: free keys, and losses, whose weight is 0 by default.
    """
    recorded = flatten_dict(record["config"], sep=".")
    rows = set(record["config"]["losses"])

    def is_later(key: str) -> bool:
        section, _, rest = key.partition(".")
        return is_free(key) or (section == "losses" and rest.split(".")[0] not in rows)

    defaults = flatten(load("base"))
    return {key: value for key, value in defaults.items() if is_later(key)} | recorded


def record_config(config: Any, workdir: Path, *, fingerprint: str, spec: data.DatasetSpec) -> None:
    """Write `config.json`: the config, versions, commit, which data it is and what is in it.

    Raises:
      InputError: the workdir was trained on other data, or the processes have different data.
    """
    trained = {k: v for k, v in flatten(config).items() if not is_free(k)}
    for what, value in (("data", fingerprint), ("configurations", json.dumps(trained))):
        mine = zlib.crc32(value.encode()) >> 1  # 31 bits, as JAX has no int64 by default
        if distributed.any_process(distributed.from_first(mine) != mine):
            raise InputError(
                f"the processes have different {what} (here: {value}), expected the same in all"
            )
    path = workdir / "config.json"
    if path.exists():
        before = read_record(workdir).get("data_fingerprint")  # a study has none
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
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def recorded_config(workdir: Any, given: Any) -> ml_collections.ConfigDict:
    """The config that a workdir was trained with, but for the free keys that are given.

    Args:
      workdir: of a run.
      given: a config of any keys, those of the command line; what it lacks is as recorded, but for
        the mesh: that is all devices along `data`, for they need not be those of the training.

    Raises:
      InputError: nothing was trained there, or a key that is not free is given another value.
    """
    config = load("base")
    recorded = recorded_keys(read_record(workdir))
    config.update_from_flattened_dict(recorded | {"mesh.data": -1, "mesh.space": 1})
    for key, value in flatten(given).items():
        if is_free(key):
            config.update_from_flattened_dict({key: value})
        elif recorded.get(key) != value:
            raise InputError(
                f"config.{key} is {value!r}, but {workdir} was trained with {recorded.get(key)!r}: "
                f"expected that, or only keys of {', '.join(FREE_KEYS)}"
            )
    return config


def recorded_spec(workdir: Any) -> data.DatasetSpec:
    """What the data set is that a workdir was trained on, without the data.

    Raises:
      InputError: nothing was trained there.
    """
    return data.DatasetSpec.from_record(read_record(workdir)["spec"])


def read_record(workdir: Any) -> dict[str, Any]:
    """What config.json holds, in today's format.

    Raises:
      InputError: there is none, or a later version wrote it.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise InputError(f"{path} not found: nothing was trained in this workdir yet")
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged: {error}, expected JSON") from error
    return in_todays_format(record, str(path))


def in_todays_format(record: dict[str, Any], where: str) -> dict[str, Any]:
    """A record that this or an earlier version wrote; InputError if a later one did.

    Args:
      record: what config.json holds.
      where: its name in the error.
    """
    number = record.get("format", 0)
    if number > FORMAT:
        raise InputError(
            f"{where} has format {number}, expected at most {FORMAT}: a later version wrote it"
        )
    try:
        return _from_format_0(copy.deepcopy(record)) if number == 0 else record
    except KeyError as error:
        raise InputError(f"{where} has no {error}, expected what version 0.1.0 wrote") from error


def _from_format_0(record: dict[str, Any]) -> dict[str, Any]:
    """Before there was a number, two keys of the bridges were among the losses."""
    config = record["config"]
    for row, key in (("hfd", "borrowed_grad"), ("mgd", "mask_ratio")):
        config["bridges"][key] = config["losses"][row].pop(key)
    for part in ("cnn", "vit"):
        if config[part]["optimizer"] == "adamw":
            config[part]["momentum"] = -1.0  # it was ignored
    return record | {"format": FORMAT}
