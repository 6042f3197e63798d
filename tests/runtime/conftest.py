"""Fixtures for the contract tests, which run for every runtime."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from edgekit.config.runtimes import RUNTIMES, Runtime
from tests.helpers import fake_runtime


@pytest.fixture(params=[*RUNTIMES, "fake"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """Each runtime, and a fake one that is registered for the test."""
    with fake_runtime.added() if request.param == "fake" else nullcontext():
        yield RUNTIMES[request.param]


@pytest.fixture
def target(runtime: Runtime) -> str:
    """Name of the runtime."""
    return runtime.name
