"""Builds networks without weights on torch's meta device, where tensors have shapes but no memory."""

import torch
from torch import nn

from edgekit.errors import EdgekitError, ModelError
from edgekit.models.identify import identify
from edgekit.models.inputs import resolve_size
from edgekit.models.lookup import find_source
from edgekit.models.options import ModelOptions


def build_meta(options: ModelOptions) -> tuple[nn.Module, tuple[int, int]]:
    """Build the module on the meta device in eval mode; return it and its input's (height, width) in pixels.

    Loads no weights, and downloads nothing but a hub repository that is the model. Raises ModelError or UsageError for
    an invalid name or arguments, ModelError for a factory that needs real tensors, and the errors of `identify`.
    """
    options = identify(options).options
    source = find_source(options)
    size = source.input_size(options)
    try:
        with torch.device("meta"):
            module = source.build_meta(options)
    except EdgekitError:
        raise
    except Exception as error:  # the code reads values, which meta tensors don't have
        raise ModelError(
            f"can't plan '{options.name}', because its code needs real tensors ({type(error).__name__}: {error})",
            fix="Deploy it without a plan, or change the code so that it reads no values of tensors",
        ) from error
    return module.eval().requires_grad_(False), resolve_size(module, size)
