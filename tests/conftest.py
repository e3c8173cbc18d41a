"""Shared by all tests: four CPU devices, and what was compiled once is not compiled again.

And fixtures for whole runs, which import what they need themselves: JAX must come after the lines
that set the environment.
"""

import os
import tempfile

import pytest

from collabseg_jax.run import runtime

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Machine code that LLVM does not optimise is made in half the time and is used once or twice here.
# What XLA itself does to a program stays the same.
# Other devices are tested as they are.
FLAGS = {"xla_force_host_platform_device_count": 4, "xla_backend_optimization_level": 0}
for _name, _value in FLAGS.items() if os.environ["JAX_PLATFORMS"] == "cpu" else ():
    if _name not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --{_name}={_value}"
_cache = tempfile.TemporaryDirectory(prefix="collabseg-test-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
runtime.collect_garbage_less_often()  # as the command line does


# Of few tests that take long. Where files are shared out (`-n 2 --dist=loadfile
# --no-loadscope-reorder`), a process that comes to one of these last would end alone.
LONG = (
    *("test_processes.py", "test_devices.py", "test_run.py", "test_remat.py", "test_gradients.py"),
    *("test_checkpoints.py", "test_disk.py", "test_clock.py", "test_folder_run.py"),
    "test_notebook.py",
)


def pytest_collection_modifyitems(items):
    """The long files first."""
    items.sort(key=lambda item: item.path.name not in LONG)


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
    """Trains by a config to the end, with the tiny students; the workdir."""
    from collabseg_jax.modes import train
    from tests import tiny

    def run(config):
        workdir = tmp_path_factory.mktemp("runs") / "whole"
        with pytest.MonkeyPatch.context() as monkeypatch:
            tiny.install(monkeypatch)
            train.run(config, workdir)
        return workdir

    return run
