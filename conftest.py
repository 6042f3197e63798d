"""Lets pytest collect the code blocks of the documentation beside the tests."""

from tests.docs.blocks import SYBIL, demo_run

__all__ = ["demo_run", "pytest_collect_file"]

pytest_collect_file = SYBIL.pytest()
