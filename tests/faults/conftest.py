"""Shared by the tests of faults: one run to which nothing happened."""

import pytest

from tests.faults.runs import make_config


@pytest.fixture(scope="session")
def finished(data_dir, train_tiny):
    """The workdir of an uninterrupted run with the checkpoints of steps 8 and 12."""
    return train_tiny(make_config(data_dir))
