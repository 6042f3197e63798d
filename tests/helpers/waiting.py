"""Waiting for what can be observed, with a deadline instead of a guess at how long it takes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 200
"""Long enough for a machine that many jobs share. Only a failure waits that long."""


def wait_until(condition: Callable[[], T], what: str) -> T:
    """The condition's first true value; AssertionError naming `what` if there is none within the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, f"after {DEADLINE_S} s still not: {what}"
        time.sleep(0.02)
    return found


@contextmanager
def when(condition: Callable[[], object], action: Callable[[], object]) -> Iterator[None]:
    """While the block runs, do something in another thread as soon as a condition holds; it fails if it never does."""
    over, done = threading.Event(), []

    def wait() -> None:
        if wait_until(lambda: over.is_set() or condition(), "the condition of an action") and not over.is_set():
            action()
            done.append(True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert done, "the block ended before the condition held"
