"""edgekit turns an image classifier into an INT8 model and measures it on the device that will run it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.runtime import LiveSession, Session, follow, load

__all__ = ["LiveSession", "Session", "__version__", "follow", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the SDK on first use, so that the command line starts without numpy."""
    if name not in __all__:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    from edgekit import runtime

    return getattr(runtime, name)


def __dir__() -> list[str]:
    return sorted(__all__)
