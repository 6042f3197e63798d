"""A fourth runtime, which stores the graph as torch exports it and runs it with torch.

It converts nothing and is fast, so the tests of the pipeline use it, too. Its folder is tests/helpers/fake.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.config.runtimes import Runtime
from edgekit.support.libraries import quiet
from tests.helpers.fake import backend, engine, lowering, profiler
from tests.helpers.fake.backend import Backend
from tests.helpers.fake.engine import Engine
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.runtimes import registered

__all__ = ["FOLDER", "ROW", "Backend", "Engine", "added", "embedded", "loaded"]

FOLDER = Path(__file__).parent / "fake"
ROW = Runtime(
    name="fake",
    title="Fake",
    model_suffix=".pt2",
    import_names=("torch",),
    distributions=("torch",),
    oldest_version="2.12",
    oldest_loading_version="2.0",
    excluded_version="3",
    compiler_distributions=(),
    lowerings=("table",),
)
"""The fake runtime's row in the table of runtimes."""


@contextmanager
def added() -> Iterator[Runtime]:
    """Add the runtime to the table, and its modules under the names in its row, in this process only."""
    modules = {
        ROW.engine_module: engine,
        ROW.backend_module: backend,
        ROW.lowering_module: lowering,
        ROW.profiler_module: profiler,
    }
    with registered(ROW), without_fresh_processes(), pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield ROW


def loaded(bundle: Path) -> torch.export.ExportedProgram:
    """Read the model file of a bundle."""
    with quiet():
        return torch.export.load(bundle / "model.pt2")


def embedded(model: Path) -> dict[str, Any]:
    """Read the metadata inside a model file."""
    files = {"edgekit": ""}
    with quiet():
        torch.export.load(model, extra_files=files)
    metadata: dict[str, Any] = json.loads(files["edgekit"])
    return metadata
