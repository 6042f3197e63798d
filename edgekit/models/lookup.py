"""The model sources, and the one place that chooses among them by a model's name."""

from edgekit.models.factory_source import FactorySource
from edgekit.models.open_clip_source import OpenClipSource
from edgekit.models.source import ModelSource
from edgekit.models.timm_source import TimmSource

SOURCES: tuple[ModelSource, ...] = (OpenClipSource(), FactorySource(), TimmSource())
"""In the order in which they are asked whether a name is theirs; timm's names have no mark, so it comes last."""


def find_source(name: str) -> ModelSource:
    """The source of a model with this name, whether or not such a model exists."""
    return next(source for source in SOURCES if source.recognizes(name))
