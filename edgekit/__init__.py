"""edgekit: from a checkpoint to an INT8 classifier that is proven on the device it will run on."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.runtime import Session, load

__all__ = ["Session", "__version__", "load"]

__version__ = "0.1.0"

# NNCF and OpenVINO's converter tell their maker that they were used, from a process that they fork, and keep an ID in
# the user's home. Without this package they do not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    """Import the SDK on first use, so that the command line starts without numpy."""
    if name not in __all__:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    from edgekit import runtime

    return getattr(runtime, name)


def __dir__() -> list[str]:
    return sorted(__all__)
