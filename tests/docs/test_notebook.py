"""The tutorial that is a notebook: every cell runs, in order, in a kernel of Jupyter."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.forks import CHILDREN
from tests.helpers.tiny import ROOT

NOTEBOOK = ROOT / "docs" / "tutorials" / "python.ipynb"
FEWER = {
    'if not name.endswith("/")]': 'if not name.endswith("/")][::8]',
    "range(64)": "range(8)",
    "num_calibration_samples=64": "num_calibration_samples=8",
}
"""What the test changes, so that it takes an eighth of the photos."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs(commands: Callable[[], Path], tmp_path: Path) -> None:
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    text = NOTEBOOK.read_text()
    for words, fewer in ((json.dumps(each)[1:-1] for each in pair) for pair in FEWER.items()):
        assert words in text
        text = text.replace(words, fewer)
    notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    manager = AsyncKernelManager()
    assert manager.kernel_spec
    manager.kernel_spec.argv[:2] = [str(commands() / CHILDREN / "python"), "-P", "-m"]  # a fork has imported torch
    client = NotebookClient(notebook, manager, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(cleanup_kc=True)  # else the kernel of a given manager runs on, and the process that forked it waits
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "compile:" in shown, "progress is shown in the notebook"
    assert "onnx-int8" in shown
    assert (tmp_path / "runs/notebook/report.html").is_file()
    assert (tmp_path / "runs/notebook-tflite/tflite-int8/manifest.json").is_file()
