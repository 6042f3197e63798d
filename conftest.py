"""Lets pytest collect the code blocks of the documentation with the tests."""

import pytest

from tests.docs.blocks import SLOW, SYBIL, commands, demo_run
from tests.helpers.sharing import shared_folder

__all__ = ["commands", "demo_run", "pytest_collect_file", "shared_folder"]

pytest_collect_file = SYBIL.pytest()


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path in SLOW:
            item.add_marker("slow")
