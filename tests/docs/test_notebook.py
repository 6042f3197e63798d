"""The tutorial that is a notebook: every cell runs, in order, in a kernel of Jupyter."""

import json
from pathlib import Path

import pytest

from tests.helpers.tiny import ROOT

NOTEBOOK = ROOT / "docs" / "tutorials" / "python.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "compile:" in shown, "progress is shown in the notebook"
    assert "onnx-int8" in shown
    assert (tmp_path / "runs/notebook/report.html").is_file()
    assert (tmp_path / "runs/notebook-tflite/tflite-int8/manifest.json").is_file()
