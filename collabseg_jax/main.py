"""The command line: `python -m collabseg_jax.main --config configs/NAME.py [--mode=MODE] ...`."""

import difflib
import os
import re
import sys
import traceback
from pathlib import Path

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from collabseg_jax.errors import InputError, RunError, unknown
from collabseg_jax.run import config as config_file
from collabseg_jax.run import runtime

DEFAULT_CONFIG = "configs/quickstart.py"
MODES = ("train", "eval", "predict", "export", "prepare", "check", "describe", "compile", "study")
DISTRIBUTED_MODES = ("train", "eval")
WORKDIR_MODES = ("eval", "predict", "export")  # of a run that is recorded there
LOST = "UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|FAILED_PRECONDITION"

flags.DEFINE_string("workdir", "", "where the run lives; default: runs/<config name>")
flags.DEFINE_string("mode", "train", " | ".join(MODES))
flags.DEFINE_string(
    "coordinator_address",
    "",
    "one process: empty; several: auto (found in a cluster's environment), or HOST:PORT of "
    "process 0",
)
flags.DEFINE_integer("num_processes", 0, "with --coordinator_address=HOST:PORT")
flags.DEFINE_integer("process_id", -1, "with --coordinator_address=HOST:PORT")


def config_name(path: str) -> str:
    """configs/ade20k.py -> ade20k; a folder below configs/ stays, and so does what follows a colon.

    configs/ablations.py:dml,camvid -> ablations_dml_camvid
    """
    path, _, argument = path.partition(":")
    path = Path(path).with_suffix("")
    if argument:
        path = path.with_name(f"{path.name}_{argument.replace(',', '_')}")
    parts = path.parts
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    return str(Path(*parts)) if "configs" in path.parts else parts[-1]


def run(config, *, mode: str, workdir: str):
    """Hand over to one mode.

    Raises:
      InputError: an unknown mode, an address as workdir, or a study's config in another mode.
    """
    if "://" in str(workdir):
        raise InputError(f"--workdir={workdir}: expected a folder of the file system, no address")
    if mode in MODES and ("arms" in config) != (mode == "study"):
        kind, expected = ("study", "run") if "arms" in config else ("run", "study")
        raise InputError(
            f"--mode={mode}: --config is that of a {kind}, expected that of a {expected} "
            "(studies are in configs/studies/)"
        )
    if mode == "train":
        from collabseg_jax.modes import train

        return train.run(config, workdir)
    if mode == "eval":
        from collabseg_jax.modes import evaluate

        return evaluate.run(config, workdir)
    if mode == "predict":
        from collabseg_jax.modes import predict

        return predict.run(config, workdir)
    if mode == "export":
        from collabseg_jax.modes import export

        return export.run(config, workdir)
    if mode == "prepare":
        from collabseg_jax.modes import prepare

        return prepare.run(config)
    if mode == "check":
        from collabseg_jax.modes import check

        return check.run(config, workdir)
    if mode == "describe":
        from collabseg_jax.modes import describe

        return describe.run(config)
    if mode == "compile":
        from collabseg_jax.modes import compile as ahead

        return ahead.run(config)
    if mode == "study":
        from collabseg_jax.modes import study

        return study.run(config, workdir)
    raise unknown("mode", mode, MODES)


def _main(argv) -> int:
    """Parse, then run one mode; the exit code."""
    app.define_help_flags()
    rest = _parse(argv)
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; flags look like --config.steps=100")
    logging.set_verbosity(logging.WARNING)
    path = flags.FLAGS["config"].config_filename
    workdir = os.path.expanduser(flags.FLAGS.workdir) or str(Path("runs") / config_name(path))
    from collabseg_jax.run import distributed

    if flags.FLAGS.coordinator_address and flags.FLAGS.mode not in DISTRIBUTED_MODES:
        raise InputError(
            f"--mode={flags.FLAGS.mode} runs in a single process, expected no --coordinator_address"
        )
    distributed.start(
        flags.FLAGS.coordinator_address, flags.FLAGS.num_processes, flags.FLAGS.process_id
    )
    of_workdir = flags.FLAGS.mode in WORKDIR_MODES and "arms" not in flags.FLAGS.config
    config = _given() if of_workdir else flags.FLAGS.config
    result = run(config, mode=flags.FLAGS.mode, workdir=workdir)
    failed = {"check": "errors", "study": "failed"}.get(flags.FLAGS.mode)
    return 1 if failed and result[failed] else 0


def _given() -> ml_collections.ConfigDict:
    """The keys that the command line sets, without those of the file."""
    given = {}
    for key, value in config_flags.get_override_values(flags.FLAGS["config"]).items():
        *sections, name = key.split(".")
        at = given
        for section in sections:
            at = at.setdefault(section, {})
        at[name] = value
    return ml_collections.ConfigDict(given)


def _parse(argv: list[str]) -> list[str]:
    """The arguments that are no flags; InputError for a flag that cannot be."""
    path = _config_path(argv)
    if not Path(path.split(":")[0]).is_file():
        raise InputError(f"--config={path}: no such file, expected one like configs/quickstart.py")
    try:
        # Here and not at the top of the file: it already reads the overrides in sys.argv.
        config_flags.DEFINE_config_file("config", DEFAULT_CONFIG, "a file of configs/")
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _explain(error, argv, path) from error


def _config_path(argv: list[str]) -> str:
    for i, argument in enumerate(argv):
        if argument in ("--config", "-config") and i + 1 < len(argv):
            return argv[i + 1]
        if match := re.match(r"--?config=(.*)", argument):
            return match[1]
    return DEFAULT_CONFIG


def _explain(error: Exception, argv: list[str], path: str) -> InputError:
    """One line for an override that the config has no place for, or another bad flag."""
    try:
        valid = _keys(config_file.load(path).to_dict())
    except ValueError as refused:  # what follows the colon
        return InputError(str(refused))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in valid:
            near = difflib.get_close_matches(match[1], valid, n=3, cutoff=0.4)
            group = [key for key in valid if key.rpartition(".")[0] == match[1].rpartition(".")[0]]
            return InputError(
                f"unknown config key {match[1]!r}; did you mean {' or '.join(near or group)}?"
            )
    return InputError(str(error).splitlines()[0])


def _keys(tree: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def cli() -> None:
    """Entry point: runs `sys.argv`.

    Exit code 0, also after SIGTERM or SIGHUP if the run was saved; 2 and one line for bad input; 1
    and one line for a run that cannot go on; 1 too after a check that found errors, or a study of
    which a run failed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    runtime.keep_compiled_programs()
    runtime.keep_freed_memory()
    runtime.collect_garbage_less_often()
    try:
        code = _main(sys.argv)  # config_flags reads sys.argv too, so it cannot be another list
    except InputError as error:
        _end(2, f"error: {error}")
    except RunError as error:
        _end(1, f"error: {error}")
    except Exception as error:
        from collabseg_jax.run import distributed

        if distributed.is_joined():
            # What a collective raises whose other end is gone is a status of XLA.
            status = re.match(rf"({LOST}): .*", str(error))
            _end(1, f"error: {distributed.lost(status[0])}" if status else traceback.format_exc())
        raise
    except KeyboardInterrupt:
        _end(130, "interrupted")
    _end(code)


def _end(code: int, line: str = "") -> None:
    """Leave; with other processes, without waiting for them if something went wrong."""
    from collabseg_jax.run import distributed

    if line:
        print(line, file=sys.stderr)
    if code:
        distributed.abandon(code)
    distributed.finish()
    sys.exit(code)


if __name__ == "__main__":
    cli()
