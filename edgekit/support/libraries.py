"""Importing heavy libraries when they are needed, and keeping them quiet while they work."""

import contextlib
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType

from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.support import library_log
from edgekit.support.distribution import install_command


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """For import statements: a missing package is a MissingExtraError, and what libraries print is kept off."""
    try:
        with quiet():
            yield
    except ModuleNotFoundError as error:
        package = (error.name or "edgekit").partition(".")[0]
        if package == "edgekit":
            raise
        raise MissingExtraError(f"'{package}' is not installed", fix=f"Run: {install_command(extra)}") from error


def import_needed(module: str, extra: str) -> ModuleType:
    """The module of this name, or MissingExtraError when a package that it imports is missing."""
    with needs(extra):
        return importlib.import_module(module)


class LibraryErrors:
    """Turns what another project's library raises inside the block into an error of edgekit's.

    The block holds direct calls of the library and nothing else. Libraries call edgekit back, and what that code
    raises is a mistake of ours: it passes as it is, as EdgekitErrors and the types in `passing` do.
    """

    def __init__(
        self, error_of: Callable[[Exception], EdgekitError], passing: tuple[type[Exception], ...] = ()
    ) -> None:
        self._error_of = error_of
        self._passing: tuple[type[Exception], ...] = (EdgekitError, *passing)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(raised, Exception) and not isinstance(raised, self._passing) and not _is_ours(trace):
            raise self._error_of(raised) from raised


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an exception passed through edgekit's code on its way to the block, whose frame is the first."""
    trace = trace.tb_next if trace else None
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "edgekit":
            return True
        trace = trace.tb_next
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' warnings, log lines, bars and what their C++ parts print off both streams.

    edgekit's own progress has a descriptor of its own. While a run folder is open, what is printed goes to its
    `library_log`; elsewhere it is discarded. Descriptors belong to the process: use it in one thread at a time. It may
    be nested.
    """
    _flush()
    before = logging.root.manager.disable
    kept = os.dup(1), os.dup(2)
    elsewhere = library_log.descriptor()
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # sys.stdout and sys.stderr stay: loggers that libraries set up meanwhile hold on to them.
            os.dup2(elsewhere, 1)
            os.dup2(elsewhere, 2)
            yield
    finally:
        _flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(elsewhere)
        logging.disable(before)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # full disk, closed pipe: shown where it is written again
            stream.flush()


def first_line(error: Exception) -> str:
    """The first line of a message that says something: OpenVINO starts with places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not re.match(r"Exception from \S+:\d+:$|Check '.*' failed at ", line)]
    return telling[0] if telling else type(error).__name__
