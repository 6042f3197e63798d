"""Fixtures of several files of these tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
