"""Tracebacks, for those who look for the cause of an error: `--traceback` on the command line shows them."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

OPTION = "--traceback"
_wanted = False


@contextmanager
def shown(wanted: bool) -> Iterator[None]:
    """Show the traceback of every error that is reported inside the block, if `wanted`."""
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def wanted() -> bool:
    """Whether tracebacks are shown."""
    return _wanted


def text_of(error: BaseException) -> str:
    """The traceback of an error and of every error that it came from."""
    return "".join(traceback.format_exception(error)).rstrip()
