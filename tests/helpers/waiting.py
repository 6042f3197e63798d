"""Waits for observable conditions with a deadline, instead of sleeping for a guessed time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
DEADLINE_S = 200
"""Deadline of a wait, long enough for a machine that many jobs share. Only a failure waits that long."""


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Return the condition's first true value. Raises AssertionError with `what` after the deadline."""
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"after {DEADLINE_S} s still not: {what}"
        time.sleep(0.02)
    return value


@contextmanager
def when(condition: Callable[[], object], action: Callable[[], object]) -> Iterator[None]:
    """Run `action` in another thread once `condition` is true during the block. Fails if it never is."""
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
