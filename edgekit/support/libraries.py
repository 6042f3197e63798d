"""Importing heavy libraries when they are needed, and keeping them quiet while they work."""

import contextlib
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from edgekit.errors import MissingExtraError
from edgekit.support.distribution import install_command


def import_needed(module: str, extra: str) -> ModuleType:
    """The module, or MissingExtraError when a package that it imports is missing."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "edgekit").partition(".")[0]
        if package == "edgekit":
            raise
        raise MissingExtraError(f"'{package}' is not installed. Run: {install_command(extra)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' warnings, log lines, bars and what their C++ parts print off both streams.

    edgekit's own progress has a descriptor of its own. What was kept off is thrown away: errors come as exceptions.
    Descriptors belong to the process: use it in one thread at a time. It may be nested.
    """
    _flush()
    before = logging.root.manager.disable
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # sys.stdout and sys.stderr stay: loggers that libraries set up meanwhile hold on to them.
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            yield
    finally:
        _flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(nowhere)
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
