"""Loads networks from timm, open_clip, the user's own code and checkpoint files, all as one `Network`.

Names are imported on first use, so that parsing arguments doesn't import torch.
"""

from typing import TYPE_CHECKING, Any

from edgekit.models.options import parse_model_args

if TYPE_CHECKING:
    from edgekit.models.loading import load_network
    from edgekit.models.network import Network

__all__ = ["Network", "load_network", "parse_model_args"]


def __getattr__(name: str) -> Any:
    """Import torch and timm only when a network is needed."""
    if name not in __all__:
        raise AttributeError(f"module 'edgekit.models' has no attribute '{name}'")
    from edgekit.models import loading

    return getattr(loading, name)


def __dir__() -> list[str]:
    return sorted(__all__)
