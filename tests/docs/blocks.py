"""Runs the bash and Python blocks of the documentation as tests: each page in order, in a separate folder.

The folder has `photos/`, the demo's evaluation images with a folder for each class: all of them where outputs are
recorded, and few in tests. What else the blocks need, a page makes in an invisible block: `<!-- invisible-code-block:
bash ... -->`. In Python, `demo_run("runs/demo")` copies a run of `edgekit demo` on a few images there, which is made
once for all pages. A block that can't run here follows a comment `<!-- skip: next "reason" -->`, and one that takes
minutes, and runs only where outputs are recorded, `<!-- skip: next if(not recording, reason="...") -->`. In tests,
`edgekit` is a fork of a process that has imported torch.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from edgekit.models.demo import assets
from tests.helpers.forks import forked_edgekit
from tests.helpers.sharing import kept
from tests.helpers.tiny import ROOT

LONGEST_S = 600
SLOW = frozenset(
    ROOT / page
    for page in (
        "README.md",
        "docs/reference/report.md",
        "docs/reference/sdk.md",
        "docs/how-to/apps.md",
        "docs/how-to/checkpoints.md",
        "docs/how-to/choose.md",
        "docs/how-to/data-layouts.md",
        "docs/how-to/gate-in-ci.md",
        "docs/how-to/giant-models.md",
        "docs/how-to/model-card.md",
        "docs/how-to/no-labels.md",
        "docs/how-to/onnx-files.md",
        "docs/how-to/other-machines.md",
        "docs/how-to/other-programs.md",
        "docs/how-to/search.md",
        "docs/how-to/several-labels.md",
        "docs/how-to/signatures.md",
        "docs/how-to/soups.md",
        "docs/how-to/thresholds.md",
        "docs/how-to/updates.md",
        "docs/tutorials/int8-gains-too-little.md",
        "docs/tutorials/your-own-model.md",
    )
)
"""Pages that make bundles, or copy a run whose bundles are made for the first of them."""
COLUMNS = "100"
"""Width of the terminal: what a page shows of an output is that wide."""
OF_A_CLASS = 50
"""Number of the demo's evaluation images of each class. Tests take eight, among them the first and the last."""
FEW = (
    "--target onnx --target tflite --num-calibration-samples 8 --num-eval-samples 20 --warmup 1 --iterations 5 "
    "--max-drop 100 --min-speedup 0"
)
"""Options with which the demo takes little time and passes."""


def run_bash(script: str, folder: Path, commands: Path | None = None) -> str:
    """Run a script in a folder, which is also its HOME: what it printed, on both streams.

    It finds `edgekit` in the folder `commands`, or else next to this Python.

    Raises AssertionError with the output if a command fails.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "EDGEKIT_", "COVERAGE_"))}
    path = os.pathsep.join(map(str, filter(None, (commands, Path(sys.executable).parent, os.environ["PATH"]))))
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
def commands() -> Iterator[Callable[[], Path]]:
    """Returns the folder of a command `edgekit` that starts at once, and starts the process that it forks."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(forked_edgekit()))


@pytest.fixture(scope="session")
def demo_folder(shared_folder: Path, commands: Callable[[], Path]) -> Callable[[], Path]:
    """Returns the folder in which the demo was run, with what it printed in `printed`."""

    def make(place: Path) -> None:
        (place / "printed").write_text(run_bash(f"edgekit demo {FEW}", place, commands()))

    return lambda: kept(shared_folder, "demo_run", make)


@pytest.fixture(scope="session")
def demo_run(demo_folder: Callable[[], Path]) -> Callable[[str], None]:
    """Copies a run of the demo to a path."""

    def copy(path: str) -> None:
        shutil.copytree(demo_folder() / "runs/demo", path)

    return copy


def _evaluate_bash(example: Example) -> None:
    script, start = str(example.parsed), example.namespace.get("commands")
    commands = start() if start and re.search(r"\bedgekit [a-z]", script) else None
    example.namespace["output"] = run_bash(script, Path.cwd(), commands)


def enter_folder(namespace: dict[str, Any]) -> None:
    namespace.setdefault("recording", False)
    namespace["page_folder"], namespace["checkout"] = tempfile.TemporaryDirectory(prefix="edgekit-docs-"), Path.cwd()
    os.chdir(namespace["page_folder"].name)
    with zipfile.ZipFile(assets() / "evaluation.zip") as images:
        few = (name for at, name in enumerate(images.namelist()) if at % OF_A_CLASS % 7 == 0)
        images.extractall("photos", None if namespace["recording"] else few)


def leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["checkout"])
    namespace["page_folder"].cleanup()


SYBIL = Sybil(
    parsers=[CodeBlockParser("bash", _evaluate_bash), PythonCodeBlockParser(), SkipParser()],
    path=str(ROOT),
    patterns=["README.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"],
    fixtures=["commands", "demo_run"],
    setup=enter_folder,
    teardown=leave_folder,
)
