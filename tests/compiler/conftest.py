"""Every pass that runs in these tests leaves a graph whose nodes have right fake tensors."""

import pytest

from tests.helpers.graphs import check_every_pass


@pytest.fixture(autouse=True)
def checked_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    check_every_pass(monkeypatch)
