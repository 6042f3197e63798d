"""Tracebacks, which the option `--traceback` shows to users who look for the cause of an error."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

OPTION = "--traceback"
_wanted = False


@contextmanager
def shown(wanted: bool) -> Iterator[None]:
    """If `wanted`, show the traceback of every error that is reported inside the block."""
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def wanted() -> bool:
    """Whether tracebacks are to be shown."""
    return _wanted


def text_of(error: BaseException) -> str:
    """The traceback of an error and of its causes."""
    return "".join(traceback.format_exception(error)).rstrip()
