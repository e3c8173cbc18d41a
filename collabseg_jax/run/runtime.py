"""What a process arranges with its surroundings before JAX starts."""

import contextlib
import ctypes
import gc
import hashlib
import os
from pathlib import Path

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_compiled_programs() -> None:
    """Has JAX keep what it compiles, so that only the first run of a configuration compiles.

    In $JAX_COMPILATION_CACHE_DIR or ~/.cache/collabseg_jax, in a folder for this kind of processor:
    programs for CPUs use what the one they were compiled on can do. Where JAX_PLATFORMS names a GPU
    or TPU first there is one folder for all, as process 0 alone writes it for hosts of any kind.
    JAX's own variables decide the rest; JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collabseg_jax"
    if not os.environ.get("JAX_PLATFORMS", "").startswith(("cuda", "rocm", "tpu")):
        with contextlib.suppress(OSError, StopIteration):
            with open("/proc/cpuinfo") as file:
                flags_line = next(line for line in file if line.startswith(("flags", "Features")))
            cache /= hashlib.sha256(flags_line.encode()).hexdigest()[:8]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def keep_freed_memory() -> None:
    """Has the C library keep the memory that is freed, for the next who asks.

    On a CPU, JAX frees a step's temporaries at its end and asks for as much at once. glibc gives
    so large a piece back to the system, which clears every page of it again: 0.4 of the 3 seconds
    that the CPUs work on a step of ResNet-18 and MiT-B0 (2 images of 256x256). Does nothing where
    there is no glibc, or where MALLOC_* or GLIBC_TUNABLES of the environment have decided.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_ARENA_MAX, 1)  # further arenas, those of threads, can hold 64 MiB at most
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def collect_garbage_less_often() -> None:
    """Has Python look for unreachable cycles after 10,000 new objects, not after 700 or 2000.

    Tracing a step makes millions of objects, nearly all of which stay: a quarter of its time went
    to looking through them.
    """
    gc.set_threshold(10_000)
