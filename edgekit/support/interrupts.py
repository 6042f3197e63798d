"""End a command cleanly by Ctrl-C, and by the signals of `kill`, `timeout` and a closed terminal.

All of them raise KeyboardInterrupt, so that connections are closed and temporary files deleted. C++ code that calls
back into Python swallows a KeyboardInterrupt or turns it into another error, and the work would continue. The signal
handler therefore also records the signal, and every piece of work checks the record when it ends.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a command. Windows has no SIGHUP."""
_received = False


@contextmanager
def noting(*signals: signal.Signals) -> Iterator[None]:
    """Record these signals, or all `SIGNALS`, inside the block, but not those that the process ignores.

    Does nothing in another thread than the main one. Blocks may be nested; the record ends with the outermost.
    """
    global _received
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals or SIGNALS}
    noted = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in noted:
        signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in noted.items():
            signal.signal(number, handler)
        if _note not in noted.values():
            _received = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Re-raise KeyboardInterrupt if a signal arrived inside the block, even if the block swallowed it."""
    try:
        yield
    except Exception:
        check()
        raise
    check()


def check() -> None:
    """Raise KeyboardInterrupt if a signal was recorded."""
    if _received:
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt
