"""The short run that the faults are provoked in, and what is compared of two such runs."""

import jax
import numpy as np

from tests import tiny


def make_config(data_dir, **overrides):
    """A dozen steps with checkpoints at 4, 8 and 12 and one evaluation, at the end."""
    return tiny.make_config(data_dir, **{"eval.every": 0, **overrides})


def arrays(workdir, data_dir):
    return tiny.trained_arrays(workdir, make_config(data_dir))


def assert_same_arrays(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)
