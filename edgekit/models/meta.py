"""A network without its weights: built on torch's meta device, where tensors have shapes and no memory."""

import torch
from torch import nn

from edgekit.errors import EdgekitError, ModelError
from edgekit.models.inputs import InputOptions, resolve_preprocessing
from edgekit.models.lookup import find_source
from edgekit.models.options import ModelOptions


def build_meta(options: ModelOptions) -> tuple[nn.Module, tuple[int, int]]:
    """The module on the meta device, in eval mode, and its input's (height, width) in pixels.

    Nothing is fetched, and no weights are read. Raises ModelError or UsageError for a name or arguments that are not
    valid, and ModelError for a factory of the user's that needs real tensors.
    """
    source = find_source(options.name)
    size = source.input_size(options)
    try:
        with torch.device("meta"):
            module = source.build_meta(options)
    except EdgekitError:
        raise
    except Exception as error:  # code that reads values, which meta tensors don't have
        raise ModelError(
            f"can't plan '{options.name}': its code needs real tensors ({type(error).__name__}: {error})"
        ) from error
    preprocessing = resolve_preprocessing(module, InputOptions(size))
    return module.eval().requires_grad_(False), (preprocessing.height, preprocessing.width)
