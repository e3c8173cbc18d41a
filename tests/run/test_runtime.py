"""What a process arranges before JAX starts."""

import os
import platform
import subprocess
import sys

import pytest

from collabseg_jax.run import runtime

# Memory as JAX on CPUs uses it, in a thread of its own: 256 MiB are asked for, written and freed.
PAGES = """
import ctypes, resource, sys, threading
from collabseg_jax.run import runtime
if sys.argv[1] == "keep":
    runtime.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def use():
    memory = libc.malloc(2**28)
    ctypes.memset(memory, 1, 2**28)
    libc.free(memory)
def count():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


def pages(*arguments, **variables):
    """How many pages of the second 256 MiB the system had to provide."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PAGES, *arguments]
    said = subprocess.run(command, env=clean | variables, capture_output=True, check=True)
    return int(said.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_freed_memory_is_kept_unless_the_environment_decides():
    assert pages("keep") < 100
    assert pages("leave") > 100
    assert pages("keep", MALLOC_ARENA_MAX="8") > 100


def test_compiled_programs_are_kept_where_the_person_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for platforms in ("cpu", "cuda,cpu"):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        runtime.keep_compiled_programs()
        of_the_processor = os.environ["JAX_COMPILATION_CACHE_DIR"] != f"{tmp_path}/collabseg_jax"
        assert of_the_processor == (platforms == "cpu" and os.path.exists("/proc/cpuinfo"))
        assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(f"{tmp_path}/collabseg_jax")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    runtime.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
