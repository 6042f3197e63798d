"""The two streams: stdout carries the result and nothing else."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def clean_stdout() -> Iterator[TextIO]:
    """While the work goes on, whatever libraries print goes to stderr; yields the real stdout for the result."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="surrogateescape") as real,
            contextlib.redirect_stdout(sys.stderr),
        ):
            yield real
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def emit(out: TextIO, document: Any) -> None:
    """One JSON document."""
    from edgekit.report.serialization import to_json

    out.write(to_json(document))
