"""Ctrl-C is not lost, even if a library swallows or replaces the exception.

Each test presses it in a new process, because pytest's own process crashed after it had loaded every runtime.
"""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable

import pytest

from edgekit.support.interrupts import check, interruptible, noting


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def raises_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), noting():
        press()


def a_swallowed_interrupt_is_raised_at_the_end_of_the_block() -> None:
    ended = []

    def swallow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            press()
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), noting(), interruptible():
        swallow()
    assert ended


def an_interrupt_that_became_another_error() -> None:
    def translate() -> None:
        try:
            press()
        except KeyboardInterrupt as error:
            raise RuntimeError("Exception from C++: KeyboardInterrupt") from error

    with pytest.raises(KeyboardInterrupt), noting(), interruptible():
        translate()


def other_errors_pass() -> None:
    with pytest.raises(ValueError, match="mine"), noting(), interruptible():
        raise ValueError("mine")


def each_command_starts_without_a_record() -> None:
    with noting(), contextlib.suppress(KeyboardInterrupt):
        press()
    with pytest.raises(KeyboardInterrupt):
        check()
    with noting():
        check()


def a_process_that_ignores_the_signal_keeps_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noting():
            press()
    finally:
        signal.signal(signal.SIGINT, before)


def another_thread_leaves_signals_alone() -> None:
    seen = []

    def work() -> None:
        with noting():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


SCENARIOS = [
    raises_at_once,
    a_swallowed_interrupt_is_raised_at_the_end_of_the_block,
    an_interrupt_that_became_another_error,
    other_errors_pass,
    each_command_starts_without_a_record,
    a_process_that_ignores_the_signal_keeps_ignoring_it,
    another_thread_leaves_signals_alone,
]


def run_and_compare_handlers(scenario: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    scenario()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_in_a_process_of_its_own(scenario: Callable[[], None]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=run_and_compare_handlers, args=(scenario,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
