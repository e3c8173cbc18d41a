"""XLA flags with which a program compiles in a third of the time: tests run it once or twice.

LLVM does not optimise the machine code. And XLA up to jaxlib 0.10 can emit the LLVM code of its
fusions directly, not by way of MLIR; later ones end the process at a flag that they don't know.
That code goes into one module: with several, the gradient of the max pooling, which compares values
that XLA recomputes, lost windows (tests/oracles/test_gradients.py notices). What XLA itself does to
a program stays the same.
"""

import jaxlib.version

FLAGS: dict[str, int | str] = {"xla_backend_optimization_level": 0}
if jaxlib.version.__version_info__ < (0, 11):
    FLAGS |= {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": 1}


def xla_flags(devices: int) -> str:
    """What XLA_FLAGS is for a process with so many CPU devices."""
    flags = {"xla_force_host_platform_device_count": devices, **FLAGS}
    return " ".join(f"--{name}={value}" for name, value in flags.items())
