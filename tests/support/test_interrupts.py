"""Ctrl-C and other signals that end a command are not lost, even if a library swallows or replaces the exception."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import pytest

from edgekit.support.child_process import check, interruptible, noting


@pytest.fixture(autouse=True)
def handler_is_restored() -> Iterator[None]:
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with noting():  # clears the record
        pass


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_raises_at_once(number: signal.Signals) -> None:
    """`timeout 1h edgekit ...` sends SIGTERM, and a closed terminal SIGHUP."""
    with pytest.raises(KeyboardInterrupt), noting():
        signal.raise_signal(number)


def test_a_swallowed_interrupt_is_raised_at_the_end_of_the_block() -> None:
    ended = []

    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            press()
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), noting(), interruptible():
        swallow()
    assert ended


def test_an_interrupt_that_became_another_error() -> None:
    def translate() -> None:
        try:
            press()
        except KeyboardInterrupt as error:
            raise RuntimeError("Exception from C++: KeyboardInterrupt") from error

    with pytest.raises(KeyboardInterrupt), noting(), interruptible():
        translate()


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), noting(), interruptible():
        raise ValueError("mine")


def test_each_command_starts_without_a_record() -> None:
    with noting():
        with contextlib.suppress(KeyboardInterrupt):
            press()
        with pytest.raises(KeyboardInterrupt):
            check()
    check()
    with noting():
        check()


def test_a_process_that_ignores_the_signal_keeps_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting():
            press()
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone() -> None:
    seen = []

    def work() -> None:
        with noting():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_a_nested_block_keeps_the_record_of_the_outer_one() -> None:
    """As when a command calls a function of Python."""
    with noting():
        with contextlib.suppress(KeyboardInterrupt):
            press()
        with noting(signal.SIGINT):
            pass
        with pytest.raises(KeyboardInterrupt):
            check()
    check()
