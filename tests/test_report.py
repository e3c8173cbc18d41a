"""What a person and a program can read off a run."""

import json

import pytest

from collabseg_jax import report


def test_metric_log_is_cut_back_and_continued(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 4, "a": 2.0}\n{"step": 5, "a": 3.0}\n{"ste')
    log = report.MetricLog(tmp_path, start_step=4)
    log.write(6, {"a": 4, "b": float("nan")})
    log.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries == [
        {"step": 1, "a": 1.0},
        {"step": 4, "a": 2.0},
        {"step": 6, "a": 4.0, "b": None},
    ]


def test_progress_without_a_terminal_is_plain_lines_with_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    progress = report.Progress(100, "training", "step", start=10)
    now[0] = 60.0  # the first one compiles
    progress.advance()
    for _ in range(20):
        now[0] += 2.0
        progress.advance(note="cnn ce 1.0")
    progress.close()
    printed = capsys.readouterr().err.splitlines()
    # At 62 s, one step of 2 s is timed and 88 are to go; 32 s later there are 72.
    assert printed == [
        "training: 12/100 steps, 02:56 left cnn ce 1.0",
        "training: 28/100 steps, 02:24 left cnn ce 1.0",
    ]


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    report.replace_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["", None])
def test_nothing_to_cut(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    report.cut_back(path, 3)
    assert not path.exists() or path.read_text() == ""
