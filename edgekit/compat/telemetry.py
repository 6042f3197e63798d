"""Telemetry of other projects: openvino_telemetry, with which NNCF and OpenVINO report their use, and ONNX Runtime's.

Checked with nncf 3.4, openvino 2026.4, openvino-telemetry 2025.2 and onnxruntime 1.32. NNCF and OpenVINO create a
telemetry client when they are imported. The client forks a process that sends data, and writes an ID into the user's
home. Consent is a file in that home, so neither library can be silenced for a single process. ONNX Runtime's packages
for Linux write an ID into the user's cache when they are imported, and send events, unless a variable of the
environment forbids it then. edgekit promises that it sends nothing.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "openvino_telemetry"
VARIABLE = "ORT_DISABLE_TELEMETRY"
"""Silences ONNX Runtime for the life of the process if it is "1" when ONNX Runtime is imported."""


@contextmanager
def hidden_telemetry() -> Iterator[None]:
    """Keep libraries that are imported inside the block from reporting their use.

    openvino_telemetry can't be imported there: NNCF and OpenVINO catch the ImportError and use a stub of their own from
    then on. ONNX Runtime finds its variable. A block around the first import in a process is therefore enough, and a
    block around a later import changes nothing for an application that imported the library before.
    """
    missing = object()
    before, variable = sys.modules.get(PACKAGE, missing), os.environ.get(VARIABLE)
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # makes Python raise ImportError
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if before is missing:
            sys.modules.pop(PACKAGE, None)
        else:
            sys.modules[PACKAGE] = before  # type: ignore[assignment]
        if variable is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = variable
