"""Shared by all tests: four CPU devices, and what was compiled once is not compiled again.

And fixtures for whole runs, which import what they need themselves: JAX must come after the lines
that set the environment.
"""

import os
import tempfile

import pytest

from collabseg_jax.run import runtime
from tests import quick

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Other devices are tested as they are; what the caller sets comes last and so wins.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = f"{quick.xla_flags(4)} {os.environ.get('XLA_FLAGS', '')}"
_cache = tempfile.TemporaryDirectory(prefix="collabseg-test-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
runtime.collect_garbage_less_often()  # as the command line does


# The files that take longest, longest first. Where files are shared out (`-n 2 --dist=loadfile
# --no-loadscope-reorder`), a process that comes to one of these last would end alone.
LONG = (
    *("collab/test_devices.py", "tests/test_notebook.py", "tests/test_wheel.py"),
    *("run/test_processes.py", "oracles/test_gradients.py", "oracles/test_in.py"),
    *("interop/test_out.py", "models/test_remat.py", "models/test_stages.py"),
    *("modes/test_train.py", "faults/test_checkpoints.py", "modes/test_describe.py"),
    *("losses/test_battery.py", "collab/test_step.py", "faults/test_disk.py"),
    *("modes/test_data_sets.py", "tests/test_types.py", "modes/test_folder_run.py"),
    "faults/test_clock.py",
)


def pytest_collection_modifyitems(items):
    """The long files first."""
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get("/".join(item.path.parts[-2:]), len(LONG)))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where the first run prepares the data of all."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def tiny_models(monkeypatch):
    """The tiny students are known by name; a module asks for this with `usefixtures`."""
    from tests import tiny

    tiny.install(monkeypatch)


@pytest.fixture(scope="session")
def train_tiny(tmp_path_factory):
    """Trains by a config to the end, with what tiny.install(options) installs; the workdir."""
    from collabseg_jax.modes import train
    from tests import tiny

    def run(config, **options):
        workdir = tmp_path_factory.mktemp("runs") / "whole"
        with pytest.MonkeyPatch.context() as monkeypatch:
            tiny.install(monkeypatch, **options)
            train.run(config, workdir)
        return workdir

    return run
