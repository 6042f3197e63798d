"""Lists the model sources, and chooses one by a model's name."""

from edgekit.models.factory_source import FactorySource
from edgekit.models.module_source import ModuleSource
from edgekit.models.onnx_source import OnnxSource
from edgekit.models.open_clip_source import OpenClipSource
from edgekit.models.options import ModelOptions
from edgekit.models.source import ModelSource
from edgekit.models.timm_source import TimmSource
from edgekit.models.torchvision_source import TorchvisionSource
from edgekit.models.transformers_source import TransformersSource

SOURCES: tuple[ModelSource, ...] = (
    ModuleSource(),
    OpenClipSource(),
    TorchvisionSource(),
    TransformersSource(),
    OnnxSource(),
    FactorySource(),
    TimmSource(),
)
"""Model sources in the order in which they are tried. timm's names have no prefix, so timm comes last."""


def find_source(options: ModelOptions) -> ModelSource:
    """Return the source that is responsible for a model, whether or not it exists."""
    return next(source for source in SOURCES if source.recognizes(options))
