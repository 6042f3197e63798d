"""Importing heavy libraries when they are needed, and keeping them quiet while they work."""

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType

from edgekit.errors import MissingExtraError


def import_needed(module: str, extra: str) -> ModuleType:
    """The module, or MissingExtraError when a package that it imports is missing."""
    try:
        with quiet():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "edgekit":
            raise
        raise MissingExtraError(f"'{error.name}' is not installed. Run: pip install \"edgekit[{extra}]\"") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' warnings, log lines, bars and what their C++ parts print off both streams.

    edgekit's own progress has a descriptor of its own. What was kept off is thrown away: errors come as exceptions.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            yield
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        logging.disable(before)
