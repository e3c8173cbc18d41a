"""Two compact students, a CNN and a Mix Transformer, that teach each other segmentation.

`collabseg_jax.load(workdir, "cnn")` gives a trained student as a function; `losses`, `models`,
`metrics` and `interop` are usable on their own.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported on first use: a student of losses need not wait for orbax and TFDS.
    if name == "load":
        from collabseg_jax.modes.predict import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
