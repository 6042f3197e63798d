"""The runtimes that the contract tests go through."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from edgekit.config.runtimes import RUNTIMES, Runtime
from tests.helpers import fake_runtime


@pytest.fixture(params=[*RUNTIMES, "fake"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """Each runtime, and a fourth that is added for the test."""
    with fake_runtime.added() if request.param == "fake" else nullcontext():
        yield RUNTIMES[request.param]


@pytest.fixture
def target(runtime: Runtime) -> str:
    """The name of each of them."""
    return runtime.name
