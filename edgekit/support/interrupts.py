"""Handle Ctrl-C reliably.

C++ code that calls back into Python swallows a KeyboardInterrupt or turns it into another error, and the work would
continue. The signal handler therefore also records the signal, and every piece of work checks the record when it ends.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

_received = False


@contextmanager
def noting() -> Iterator[None]:
    """Record Ctrl-C inside the block. Does nothing in another thread, or if the process ignores the signal."""
    global _received
    _received = False
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interruptible() -> Iterator[None]:
    """Re-raise KeyboardInterrupt if Ctrl-C arrived inside the block, even if the block swallowed it."""
    try:
        yield
    except Exception:
        check()
        raise
    check()


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was recorded."""
    if _received:
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt
