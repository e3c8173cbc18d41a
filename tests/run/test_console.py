"""What a person and a program can read off a run."""

import json

import pytest

from collabseg_jax.run import console, files, log


def test_metric_log_is_cut_back_and_continued(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 4, "a": 2.0}\n{"step": 5, "a": 3.0}\n{"ste')
    metrics = log.MetricLog(tmp_path, start_step=4)
    metrics.write(6, {"a": 4, "b": float("nan")})
    metrics.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries == [
        {"step": 1, "a": 1.0},
        {"step": 4, "a": 2.0},
        {"step": 6, "a": 4.0, "b": None},
    ]


def test_progress_without_a_terminal_is_plain_lines_with_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    progress = console.Progress(100, "training", "step", start=10)
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


def test_waits_say_once_that_data_is_late(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    waits = console.Waits()

    def step(data, device):
        for what, seconds in (("data", data), ("device", device)):
            with waits.on(what):
                now[0] += seconds
        now[0] += 5  # spent elsewhere

    step(0.1, 0.3)
    step(0.3, 0.5)
    assert waits.means() == pytest.approx({"data_s": 0.2, "device_s": 0.4})
    assert capsys.readouterr().err == ""
    for _ in range(3):
        step(0.5, 0.01)
        step(0.5, 0.01)
        assert waits.means() == pytest.approx({"data_s": 0.5, "device_s": 0.01})
    [line] = capsys.readouterr().err.splitlines()
    assert "a batch takes 0.500 s and its step ends 0.010 s later" in line


def test_text_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    files.replace_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["", None])
def test_nothing_to_cut(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    log.cut_back(path, 3)
    assert not path.exists() or path.read_text() == ""


def events(path):
    """The events of a TensorBoard file: length, checksum, message, checksum; again and again."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    content, parsed = path.read_bytes(), []
    while content:
        [length] = struct.unpack("<Q", content[:8])
        parsed.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return parsed


def test_events_say_what_the_lines_say_and_where_a_restart_cuts(tmp_path):
    for start, step in ((0, 2), (4, 6)):
        metrics = log.MetricLog(tmp_path, start_step=start)
        metrics.write(step, {"a": 0.5, "b": step})
        metrics.close()
    files = {path.name.rpartition(".")[2]: path for path in tmp_path.glob("events.out.tfevents.*")}
    assert files.keys() == {"0", "4"}
    version, begun, written = events(files["4"])
    assert version.file_version == "brain.Event:2"
    assert (begun.step, begun.session_log.status) == (5, 1)  # TensorBoard drops from here on
    assert written.step == 6
    assert {v.tag: v.simple_value for v in written.summary.value} == {"a": 0.5, "b": 6.0}
