"""Ctrl-C that can't get lost.

C++ that calls back into Python swallows a KeyboardInterrupt or makes another error of it, and then the work would go
on. So the signal is also noted, and whoever ends a piece of work looks at the note.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

_came = False


@contextmanager
def noting() -> Iterator[None]:
    """Note Ctrl-C while inside. Does nothing in another thread, or where a shell made the process ignore it."""
    global _came
    _came = False
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
    """A piece of work: if Ctrl-C came meanwhile it ends in KeyboardInterrupt, whatever the work made of that."""
    try:
        yield
    except Exception:
        check()
        raise
    check()


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C came."""
    if _came:
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
