"""Several devices at once: the end of one thread ends the work of the others."""

import threading
from collections.abc import Sequence

import pytest

from edgekit.devices import registry
from edgekit.devices.registry import Device

BOARDS = [Device(name, f"ssh://{name}", None) for name in ("one", "other")]


def test_a_bug_in_one_thread_closes_the_connections_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the command would wait for a measurement that may take an hour."""
    closed = threading.Event()

    def measure(device: Device) -> Sequence[str]:
        if device.name == "one":
            raise ZeroDivisionError
        assert closed.wait(20), "it measures until its connection is closed"
        return []

    monkeypatch.setattr(registry, "close_all", closed.set)
    with pytest.raises(ZeroDivisionError):
        registry.each_device(BOARDS, measure)
    assert closed.is_set()


def test_no_thread_connects_again_while_a_command_ends() -> None:
    """It would measure its next runtime for minutes."""
    measuring, lost = threading.Event(), threading.Event()
    connected: list[str] = []

    def measure(device: Device) -> Sequence[str]:
        if device.name == "one":
            assert measuring.wait(20)
            raise ZeroDivisionError
        for runtime in ("first", "second"):
            with registry.closing(lost.set):
                connected.append(runtime)
                measuring.set()
                assert lost.wait(20)
        return []

    with pytest.raises(ZeroDivisionError):
        registry.each_device(BOARDS, measure)
    assert connected == ["first"]
    with registry.closing(lost.clear):
        assert lost.is_set(), "the next command connects"


def test_rows_come_in_the_order_of_the_devices() -> None:
    assert registry.each_device(BOARDS, lambda device: [device.name]) == ["one", "other"]
