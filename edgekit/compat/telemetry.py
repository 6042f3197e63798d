"""openvino_telemetry, with which NNCF and OpenVINO report their use to their vendor.

Checked with nncf 3.4, openvino 2026.4 and openvino-telemetry 2025.2. NNCF and OpenVINO create a telemetry client when
they are imported. The client forks a process that sends data, and writes an ID into the user's home. Consent is a file
in that home, so neither library can be silenced for a single process. edgekit promises that it sends nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "openvino_telemetry"


@contextmanager
def hidden_telemetry() -> Iterator[None]:
    """Make openvino_telemetry impossible to import inside the block.

    NNCF and OpenVINO catch the ImportError and use a stub of their own from then on. A block around their first import
    in a process is therefore enough, and a block around a later import changes nothing for an application that imported
    them before.
    """
    missing = object()
    before = sys.modules.get(PACKAGE, missing)
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # makes Python raise ImportError
    try:
        yield
    finally:
        if before is missing:
            sys.modules.pop(PACKAGE, None)
        else:
            sys.modules[PACKAGE] = before  # type: ignore[assignment]
