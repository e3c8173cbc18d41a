"""The notebook runs from its first cell to its last."""

import os
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs/first_day.ipynb"


@pytest.mark.slow
def test_the_first_day(tmp_path):
    reason = "needs nbclient and ipykernel, of the extra `test`"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored with outputs"
    # As a reader's process: one device, optimised code.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"TMPDIR": str(tmp_path), "TFDS_DATA_DIR": str(tmp_path / "data")}
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3")
    client.execute(env=environment)  # an error in a cell is one here
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
    same = re.search(r"([\d.]+)% of the pixels have the same class", text)
    assert float(same[1]) > 99
    assert "'vit/custom': " in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
