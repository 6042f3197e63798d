"""Fixtures of several files of these tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.forks import CHILDREN
from tests.helpers.measurements import without_fresh_processes


@pytest.fixture(autouse=True)
def measured_in_this_process() -> Iterator[None]:
    """Measure bundles without new processes, which would import everything again; tests/measure starts them."""
    with without_fresh_processes():
        yield


@pytest.fixture
def forked(commands: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that build bundles from one that has imported everything; other tests start new ones."""
    monkeypatch.setattr(sys, "executable", str(commands() / CHILDREN / "python"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight colour images of each of two classes."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for index in range(16):
        path = folder / f"class_{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8))
        small.resize((60, 56), Image.Resampling.BICUBIC).save(path)
    return folder
