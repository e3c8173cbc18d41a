"""The command line: `collabseg --config=PAGE [--mode=MODE]`, or `python -m collabseg_jax.main`."""

import dataclasses
import difflib
import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from collabseg_jax.errors import InputError, RunError, unknown
from collabseg_jax.run import runtime
from collabseg_jax.run.pages import find_page, load

DEFAULT_CONFIG = "configs/quickstart.py"


@dataclasses.dataclass(frozen=True)
class Mode:
    """A word of `--mode`.

    Attributes:
      module: in `collabseg_jax.modes`; its `run(config, workdir)` does the work.
      distributed: whether several processes may share the work.
      recorded: whether it is about the run that is recorded in the workdir.
      failed: the key of its result that is not empty if it found something wrong.
    """

    module: str
    distributed: bool = False
    recorded: bool = False
    failed: str = ""


MODES = {
    "train": Mode("train", distributed=True),
    "eval": Mode("evaluate", distributed=True, recorded=True),
    "predict": Mode("predict", recorded=True, failed="failed"),
    "export": Mode("export", recorded=True),
    "prepare": Mode("prepare"),
    "check": Mode("check", failed="errors"),
    "describe": Mode("describe"),
    "compile": Mode("compile"),
    "study": Mode("study", failed="failed"),
}

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
    name, _, argument = path.partition(":")
    page = Path(name).with_suffix("")
    if argument:
        page = page.with_name(f"{page.name}_{argument.replace(',', '_')}")
    parts = page.parts
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    elif Path(name).is_file():
        parts = parts[-1:]
    return str(Path(*parts))


def run(config: Any, *, mode: str, workdir: str) -> Any:
    """Hand over to one mode; what its `run` returns.

    Raises:
      InputError: an unknown mode, an address as workdir, or a study's config in another mode.
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if "://" in str(workdir):
        raise InputError(f"--workdir={workdir}: expected a folder of the file system, no address")
    if ("arms" in config) != (mode == "study"):
        kind, expected = ("study", "run") if "arms" in config else ("run", "study")
        raise InputError(
            f"--mode={mode}: --config is that of a {kind}, expected that of a {expected} "
            "(studies are in configs/studies/)"
        )
    module = importlib.import_module(f"collabseg_jax.modes.{MODES[mode].module}")
    return module.run(config, workdir)


def _main(argv: list[str]) -> int:
    """Parse, then run one mode; the exit code."""
    app.define_help_flags()
    page = _config_path(argv)
    rest = _parse(argv, page)
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; flags look like --config.steps=100")
    values = flags.FLAGS
    logging.set_verbosity(logging.FATAL)  # orbax is talkative
    workdir = os.path.expanduser(values.workdir) or str(Path("runs") / config_name(page))
    from collabseg_jax.run import distributed  # imports JAX: a mistyped flag need not wait for it

    mode = MODES.get(values.mode)
    if values.coordinator_address and not (mode and mode.distributed):
        raise InputError(
            f"--mode={values.mode} runs in a single process, expected no --coordinator_address"
        )
    distributed.start(values.coordinator_address, values.num_processes, values.process_id)
    if values.mode != "study":  # whose runs use the devices, and which must not
        distributed.require_devices()
    recorded = mode and mode.recorded and "arms" not in values.config
    config = _given() if recorded else values.config
    result = run(config, mode=values.mode, workdir=workdir)
    return 1 if mode and mode.failed and result[mode.failed] else 0


def _given() -> ml_collections.ConfigDict:
    """The keys that the command line sets, without those of the file."""
    given: dict[str, Any] = {}
    for key, value in config_flags.get_override_values(flags.FLAGS["config"]).items():
        *sections, name = key.split(".")
        at = given
        for section in sections:
            at = at.setdefault(section, {})
        at[name] = value
    return ml_collections.ConfigDict(given)


def _config_path(argv: list[str]) -> str:
    """What `--config` says: NAME or NAME:ARGUMENT."""
    for i, argument in enumerate(argv):
        if argument in ("--config", "-config") and i + 1 < len(argv):
            return argv[i + 1]
        if match := re.match(r"--?config=(.*)", argument):
            return match[1]
    return DEFAULT_CONFIG


def _parse(argv: list[str], page: str) -> list[str]:
    """The arguments that are no flags; InputError for a flag that is wrong.

    Args:
      argv: `sys.argv` itself: the library of config flags reads the overrides there.
      page: of `_config_path`.
    """
    name, colon, argument = page.partition(":")
    file = find_page(name)
    if file is None:
        raise InputError(f"--config={name}: no such file, expected one like configs/quickstart.py")
    argv[:] = [argv[0], f"--config={file}{colon}{argument}", *_without_config(argv[1:])]
    try:
        valid = load(page)
    except ValueError as error:  # what follows the colon
        raise InputError(str(error)) from error
    try:
        # Here and not at the top of the file: it already reads the overrides in sys.argv.
        config_flags.DEFINE_config_file("config", str(file), "a file of configs/")
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _explain(error, argv, valid) from error


def _without_config(arguments: list[str]) -> list[str]:
    rest = iter(arguments)
    kept = []
    for argument in rest:
        if argument in ("--config", "-config"):
            next(rest, None)
        elif not re.match(r"--?config=", argument):
            kept.append(argument)
    return kept


def _explain(error: Exception, argv: list[str], config: ml_collections.ConfigDict) -> InputError:
    """One line for an override that the config has no place for, or another bad flag."""
    from collabseg_jax.run.config import flatten

    valid = list(flatten(config))
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in valid:
            near = difflib.get_close_matches(match[1], valid, n=3, cutoff=0.4)
            group = [key for key in valid if key.rpartition(".")[0] == match[1].rpartition(".")[0]]
            return InputError(
                f"unknown config key {match[1]!r}; did you mean {' or '.join(near or group)}?"
            )
    return InputError(str(error).splitlines()[0])


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
        code = _main(sys.argv)
    except InputError as error:
        _end(2, f"error: {error}")
    except RunError as error:
        _end(1, f"error: {error}")
    except Exception as error:
        from collabseg_jax.run import distributed

        if not distributed.is_joined():
            raise
        line = distributed.line_of_lost(error)
        _end(1, f"error: {line}" if line else traceback.format_exc())
    except KeyboardInterrupt:
        _end(130, "interrupted")
    else:
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
