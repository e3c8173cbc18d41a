"""Stubs and a copy of the launch scripts for each test."""

import shutil

import pytest

from tests.launch.stubs import LAUNCH, ROOT, Stub


@pytest.fixture
def stub(tmp_path):
    """A folder for stubs, first in the PATH of its `env`, and for what they write."""
    return Stub(tmp_path / "stub")


@pytest.fixture
def home(tmp_path):
    """A copy of what the launch scripts need of the repository, without an environment."""
    home = tmp_path / "home"
    shutil.copytree(LAUNCH, home / "launch")
    shutil.copy(ROOT / "pyproject.toml", home)
    return home
