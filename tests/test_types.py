"""The package's annotations agree with each other; pyproject.toml says how strictly."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_mypy_finds_nothing():
    command = [sys.executable, "-m", "mypy", f"--cache-dir={os.devnull}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
