"""openvino_telemetry, through which NNCF and OpenVINO report their use to their maker.

Checked with nncf 3.4, openvino 2026.4 and openvino-telemetry 2025.2. NNCF and OpenVINO create a telemetry client while
they are imported; the client forks a process that sends, and writes an ID into the user's home. Consent is a file in
that home: neither library can be told to be silent in one process only. edgekit promises that it sends nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "openvino_telemetry"


@contextmanager
def hidden_telemetry() -> Iterator[None]:
    """Make openvino_telemetry unimportable inside the block, and importable again behind it.

    This relies on how NNCF and OpenVINO import the package: they catch the ImportError, take a stub of their own and
    keep it. A block around their first import in a process is therefore enough, and one around a later import changes
    nothing for an application that imported them itself.
    """
    missing = object()
    before = sys.modules.get(PACKAGE, missing)
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # Python's own way to say "not importable"
    try:
        yield
    finally:
        if before is missing:
            sys.modules.pop(PACKAGE, None)
        else:
            sys.modules[PACKAGE] = before  # type: ignore[assignment]
