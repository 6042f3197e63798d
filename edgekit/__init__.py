"""edgekit turns an image classifier into an INT8 model and measures it on the device that will run it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.api import Run, benchmark, compare, deploy, evaluate, push, quantize
    from edgekit.runtime import LiveSession, Session, follow, load

_API = ("Run", "benchmark", "compare", "deploy", "evaluate", "push", "quantize")
_SDK = ("LiveSession", "Session", "follow", "load")
__all__ = [
    "LiveSession",
    "Run",
    "Session",
    "__version__",
    "benchmark",
    "compare",
    "deploy",
    "evaluate",
    "follow",
    "load",
    "push",
    "quantize",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what is used when it is used, so that the command line starts without numpy and an app without torch."""
    if name not in (*_API, *_SDK):
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    return getattr(import_module("edgekit.api" if name in _API else "edgekit.runtime"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
