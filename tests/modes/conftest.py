"""A whole study in a second or two."""

import sys

import pytest

from collabseg_jax.modes import study
from tests.modes import fake_study


@pytest.fixture
def go(tmp_path, monkeypatch):
    """go(config) does a study in tmp_path/study with the stub; results lie ready for all."""
    (tmp_path / "stub.py").write_text(fake_study.STUB)
    monkeypatch.setenv("FAKES", str(tmp_path / "fakes"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("draw_differences", "draw_teaching"):  # slow, and tested elsewhere
        monkeypatch.setattr(study.charts, name, lambda path, *_, **__: path.touch())

    def run(config, ready=("alone", "full")):
        for trial in study.plan(config, tmp_path / "study"):
            folder = tmp_path / "fakes" / str(trial)
            if trial.arm in ready and not folder.exists():
                fake_study.finish(trial, folder)
        return study.run(
            config, tmp_path / "study", command=(sys.executable, str(tmp_path / "stub.py"))
        )

    return run
