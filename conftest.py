"""Lets pytest collect the code blocks of the documentation with the tests, and silences what they import."""

import os

import pytest

from edgekit.compat.telemetry import VARIABLE
from tests.docs.blocks import SLOW, SYBIL, commands, demo_folder, demo_run
from tests.helpers.recorded import recorded
from tests.helpers.sharing import shared_folder

__all__ = ["commands", "demo_folder", "demo_run", "pytest_collect_file", "recorded", "shared_folder"]

os.environ[VARIABLE] = "1"  # some tests import ONNX Runtime themselves
pytest_collect_file = SYBIL.pytest()


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path in SLOW:
            item.add_marker("slow")
