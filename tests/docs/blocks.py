"""Runs the bash and Python blocks of the documentation as tests: each page in order, in a separate folder.

The folder has `photos/`, the demo's evaluation images with a folder for each class. What else the blocks need, a page
makes in an invisible block: `<!-- invisible-code-block: bash ... -->`. In Python, `demo_run("runs/demo")` copies a run
of `edgekit demo` on a few images there, which is made once for all pages. A block that can't run here follows a
comment `<!-- skip: next "reason" -->`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from edgekit.models.demo import assets
from tests.helpers.sharing import made_once
from tests.helpers.tiny import ROOT

LONGEST_S = 600
COLUMNS = "100"
"""Width of the terminal: what a page shows of an output is that wide."""
FEW = (
    "--target onnx --target tflite --num-calibration-samples 8 --num-eval-samples 20 --warmup 1 --iterations 5 "
    "--max-drop 100 --min-speedup 0"
)
"""Options with which the demo takes little time and passes."""


def run_bash(script: str, folder: Path) -> str:
    """Run a script in a folder, which is also its HOME: what it printed, on both streams.

    Raises AssertionError with the output if a command fails.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "EDGEKIT_", "COVERAGE_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=kept | {"HOME": str(folder), "OMP_NUM_THREADS": "1", "PATH": path, "COLUMNS": COLUMNS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONGEST_S,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"exit code {done.returncode} of\n{script}\nwhich printed\n{output}"
    return output


@pytest.fixture(scope="session")
def demo_run(shared_folder: Path) -> Callable[[str], None]:
    """Copies a run of the demo to a path."""

    def copy(path: str) -> None:
        def make(place: Path) -> None:
            run_bash(f"edgekit demo {FEW} -o run", place)

        shutil.copytree(made_once(shared_folder, "demo_run", make) / "run", path)

    return copy


def _evaluate_bash(example: Example) -> None:
    example.namespace["output"] = run_bash(str(example.parsed), Path.cwd())


def enter_folder(namespace: dict[str, Any]) -> None:
    namespace["page_folder"], namespace["checkout"] = tempfile.TemporaryDirectory(prefix="edgekit-docs-"), Path.cwd()
    os.chdir(namespace["page_folder"].name)
    with zipfile.ZipFile(assets() / "evaluation.zip") as images:
        images.extractall("photos")


def leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["checkout"])
    namespace["page_folder"].cleanup()


SYBIL = Sybil(
    parsers=[CodeBlockParser("bash", _evaluate_bash), PythonCodeBlockParser(), SkipParser()],
    path=str(ROOT),
    patterns=["README.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"],
    fixtures=["demo_run"],
    setup=enter_folder,
    teardown=leave_folder,
)
