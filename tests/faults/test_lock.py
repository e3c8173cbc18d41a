"""Two runs in one workdir: the second changes nothing."""

import os

import pytest

from collabseg_jax.errors import RunError
from collabseg_jax.modes import train
from collabseg_jax.run import record
from tests.faults.runs import make_config

pytestmark = pytest.mark.usefixtures("tiny_models")


def test_a_second_run_is_refused_until_the_first_lets_go(finished, data_dir):
    with record.locked(finished):
        before = sorted(p.stat().st_mtime_ns for p in finished.rglob("*"))
        with pytest.raises(RunError, match=rf"{finished} is in use by process {os.getpid()} on "):
            train.run(make_config(data_dir), finished)
        assert before == sorted(p.stat().st_mtime_ns for p in finished.rglob("*"))
    assert train.run(make_config(data_dir), finished)["step"] == 12
