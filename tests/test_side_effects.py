"""Importing the package changes nothing in the process: whoever imports it has set that up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, logging, os, signal, sys, warnings
import absl.flags, absl.logging
import cv2, flax, jax, matplotlib, optax, orbax.checkpoint, tensorflow_datasets

before_loggers = {"root": logging.root} | {
    name: logger
    for name, logger in logging.root.manager.loggerDict.items()
    if isinstance(logger, logging.Logger)
}


def look():
    return {
        # The mapping itself: matplotlib's own way to ask imports pyplot and chooses a backend.
        "matplotlib's backend": repr(dict.__getitem__(matplotlib.rcParams, "backend")),
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "OpenCV's threads": cv2.getNumThreads(),
        "loggers": {
            name: repr((logger.level, logger.disabled, logger.propagate, logger.handlers,
                        logger.filters))
            for name, logger in before_loggers.items()
        },
        "logging.disable": logging.root.manager.disable,
        "stderr": [os.fstat(2).st_dev, os.fstat(2).st_ino],
        "signal handlers": {
            number.name: repr(signal.getsignal(number)) for number in signal.valid_signals()
            if isinstance(number, signal.Signals)
        },
        "absl's flags": [absl.flags.FLAGS.is_parsed(), sorted(absl.flags.FLAGS)],
        "environment": dict(os.environ),
        "JAX's configuration": {k: repr(v) for k, v in sorted(jax.config.values.items())},
        "hooks": [repr(sys.excepthook), repr(sys.unraisablehook), repr(sys.stderr)],
        "devices are initialised": jax._src.xla_bridge.backends_are_initialized(),
    }


before = look()
import collabseg_jax.losses, collabseg_jax.models, collabseg_jax.interop, collabseg_jax.data
collabseg_jax.load
print(json.dumps([before, look()]))
"""


@pytest.fixture(scope="module")
def seen():
    """What a fresh process sees before and after the imports."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "what",
    [
        "matplotlib's backend",
        "pyplot",
        "OpenCV's threads",
        "loggers",
        "logging.disable",
        "stderr",
        "signal handlers",
        "absl's flags",
        "environment",
        "JAX's configuration",
        "hooks",
        "devices are initialised",
    ],
)
def test_an_import_leaves_it_as_it_is(what, seen):
    before, after = seen
    assert what in before
    assert after[what] == before[what]
