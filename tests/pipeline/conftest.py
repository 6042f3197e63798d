"""Fixtures of several files of these tests."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.forks import CHILDREN


@pytest.fixture
def forked(commands: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes that build bundles from one that has imported everything; other tests start new ones."""
    monkeypatch.setattr(sys, "executable", str(commands() / CHILDREN / "python"))
