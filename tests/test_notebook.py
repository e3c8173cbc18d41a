"""The notebook runs from its first cell to its last."""

import os
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
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored with outputs"
    # As a reader's process: neither the devices nor the compiler flags of the tests.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"TMPDIR": str(tmp_path), "TFDS_DATA_DIR": str(tmp_path / "data")}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(env=environment)
    said = "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    print(said)
