"""A trace of a few steps."""

import jax
import pytest

from collabseg_jax.errors import InputError
from collabseg_jax.run import log


def test_a_trace_holds_the_steps_it_was_asked_for(monkeypatch, tmp_path):
    calls, now = [], [0]
    monkeypatch.setattr(log.profiler, "start", lambda folder: calls.append((now[0], folder)))
    monkeypatch.setattr(log.profiler, "stop", lambda: calls.append(now[0]))
    trace = log.Trace(tmp_path, "3:5")
    for now[0] in range(1, 8):
        trace.before(now[0])
        trace.after(now[0])
    trace.close()
    assert calls == [(3, str(tmp_path / "profile")), 4]


@pytest.mark.parametrize(("steps", "first", "last"), [("3:50", 4, 6), ("2:9", 5, 6), ("", 1, 6)])
def test_a_run_may_begin_or_end_among_them(monkeypatch, tmp_path, steps, first, last):
    calls = []
    monkeypatch.setattr(log.profiler, "start", lambda folder: calls.append("start"))
    monkeypatch.setattr(log.profiler, "stop", lambda: calls.append("stop"))
    trace = log.Trace(tmp_path, steps)
    for step in range(first, last):
        trace.before(step)
        trace.after(step)
    trace.close()
    assert calls == (["start", "stop"] if steps else [])


def test_it_is_a_folder_that_tensorboard_opens(tmp_path, capsys):
    trace = log.Trace(tmp_path, "1:2")
    trace.before(1)
    jax.block_until_ready(jax.numpy.ones(3) + 1)
    trace.after(1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "profile" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["5", "5:", ":5", "5:5", "0:5", "a:b", "-1:3"])
def test_what_is_no_range_of_steps(tmp_path, steps):
    with pytest.raises(InputError, match="config.log.profile is .*, expected FIRST:END"):
        log.Trace(tmp_path, steps)
