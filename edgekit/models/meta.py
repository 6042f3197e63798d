"""A network without its weights: built on torch's meta device, where tensors have shapes and no memory."""

import torch
from torch import nn

from edgekit.errors import EdgekitError, ModelError
from edgekit.models.factory import build_factory
from edgekit.models.inputs import InputOptions, parse_size, resolve_preprocessing
from edgekit.models.network import resolve_size
from edgekit.models.open_clip_source import PREFIX, build_open_clip
from edgekit.models.options import ModelOptions
from edgekit.models.timm_source import build_timm


def build_meta(options: ModelOptions) -> tuple[nn.Module, tuple[int, int]]:
    """The module on the meta device, in eval mode, and its input's (height, width) in pixels.

    Nothing is fetched, and no weights are read. Raises ModelError or UsageError for a name or arguments that are not
    valid, and ModelError for a factory of the user's that needs real tensors.
    """
    name = options.name
    is_factory = ":" in name and not name.startswith(PREFIX)
    size = parse_size(options.imgsz) if is_factory else resolve_size(options.imgsz, options.model_args)
    module: nn.Module
    try:
        with torch.device("meta"):
            if name.startswith(PREFIX):
                module = build_open_clip(name, options.model_args, size)
            elif is_factory:
                module = build_factory(name, options.model_args)
            else:
                module = build_timm(name, options.model_args, size)
    except EdgekitError:
        raise
    except Exception as error:  # code that reads values, which meta tensors don't have
        raise ModelError(
            f"can't plan '{name}': its code needs real tensors ({type(error).__name__}: {error})"
        ) from error
    preprocessing = resolve_preprocessing(module, InputOptions(size))
    return module.eval().requires_grad_(False), (preprocessing.height, preprocessing.width)
