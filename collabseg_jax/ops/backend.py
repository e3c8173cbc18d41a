"""The one place that decides which formulation of an operation is traced."""

from contextlib import AbstractContextManager

import jax

FORMULATIONS = ("cpu", "plain")

# A jax user context instead of a contextvar: both are per thread, but this one is part of jit's
# cache key, so a function jitted under one formulation is traced again under the other.
_chosen = jax.make_user_context(None)


def formulation() -> str:
    """The formulation to trace: "cpu" (for XLA:CPU) or "plain" (standard lax, for GPU and TPU).

    It follows `jax.default_backend()` unless `using` chose another. Both formulations compute the
    same values on every backend; only the speed differs.

    Example:
      >>> from collabseg_jax import ops
      >>> with ops.using("plain"):
      ...     ops.formulation()
      'plain'
    """
    return _chosen.value or ("cpu" if jax.default_backend() == "cpu" else "plain")


def using(name: str) -> AbstractContextManager[None]:
    """Context manager: trace with this formulation in the current thread.

    It serves tests, benchmarks, and compiling or exporting for a GPU or TPU on a CPU machine.

    Args:
      name: "cpu" or "plain".

    Raises:
      ValueError: an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from collabseg_jax import ops
      >>> with ops.using("cpu"):
      ...     ops.gelu(jnp.zeros(1)).tolist()
      [0.0]
    """
    if name not in FORMULATIONS:
        raise ValueError(f"formulation {name!r}: expected one of {', '.join(FORMULATIONS)}")
    return _chosen(name)
