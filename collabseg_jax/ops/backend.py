"""The one place that decides which formulation of an operation is traced."""

import jax

FORMULATIONS = ("cpu", "plain")

# A jax user context, not a contextvar: it is per thread too, and it is part of jit's cache key, so
# a function jitted under one formulation is traced again under the other.
_chosen = jax.make_user_context(None)


def formulation() -> str:
    """The formulation to trace: "cpu" (for XLA:CPU) or "plain" (standard lax, for GPU and TPU).

    Follows `jax.default_backend()` unless `using` says otherwise. Both compute the same values on
    every backend; only the speed differs.
    """
    return _chosen.value or ("cpu" if jax.default_backend() == "cpu" else "plain")


def using(name: str):
    """Context manager: trace with this formulation, "cpu" or "plain", in the current thread.

    For tests, benchmarks, and compiling or exporting for a GPU or TPU from a CPU machine.
    """
    if name not in FORMULATIONS:
        raise ValueError(f"formulation {name!r}: expected one of {', '.join(FORMULATIONS)}")
    return _chosen(name)
