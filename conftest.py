"""Lets pytest collect the code blocks of the documentation beside the tests."""

from tests.docs.blocks import SYBIL, demo_run
from tests.helpers.sharing import shared_folder

__all__ = ["demo_run", "pytest_collect_file", "shared_folder"]

pytest_collect_file = SYBIL.pytest()
