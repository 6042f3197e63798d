"""The two streams: stdout carries the result and nothing else; progress and messages go to stderr."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.support.libraries import needs

if TYPE_CHECKING:
    from edgekit.support.progress import Reporter

LOADING = "Loading PyTorch and the compilers"


@contextlib.contextmanager
def clean_stdout() -> Iterator[TextIO]:
    """Send whatever libraries print in the block to stderr; yields the real stdout, for the result."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            os.fdopen(os.dup(stdout), "w", encoding="utf-8", errors="surrogateescape") as real,
            contextlib.redirect_stdout(sys.stderr),
        ):
            yield real
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


@contextlib.contextmanager
def loading(reporter: "Reporter") -> Iterator[None]:
    """For imports of torch and the compilers, which take seconds: say so first. A missing package is a
    MissingExtraError."""
    announced = contextlib.nullcontext() if "torch" in sys.modules else reporter.loading(LOADING)
    with announced, needs("build"):
        yield


def emit(out: TextIO, document: Any) -> None:
    """Write a document as JSON."""
    from edgekit.report.serialization import to_json

    out.write(to_json(document))
