"""onnx2pytorch: an ONNX graph as a module that runs the graph's nodes one after another in torch."""

from collections.abc import Callable
from functools import partial, reduce

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.support.libraries import import_needed

EXTRA = "onnx-models"


def convert(model: onnx.ModelProto) -> nn.Module:
    """Turn a model into a module with the same inputs and outputs. The model is changed.

    Checked with onnx2pytorch 0.6.0. `ConvertModel` is public. Its LayerNormalization, Max and Min are not.
    Their three to nine operations become one of torch here, which edgekit's passes know. An unsupported operator may
    raise any exception.
    """
    library, operations = (import_needed(name, EXTRA) for name in ("onnx2pytorch", "onnx2pytorch.operations"))
    module: nn.Module = library.ConvertModel(model).eval().requires_grad_(False)
    for child in module.modules():
        if isinstance(child, operations.LayerNorm):
            child.forward = partial(_layer_norm, child.axis, child.eps)
        elif isinstance(child, operations.Max | operations.Min):
            child.forward = partial(_reduce, torch.maximum if isinstance(child, operations.Max) else torch.minimum)
    return module


def _layer_norm(axis: int, eps: float, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor]:
    """LayerNormalization without its optional outputs, the mean and the inverse of the standard deviation."""
    return (F.layer_norm(x, x.shape[axis:], scale, bias, eps),)


def _reduce(operation: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> Tensor:
    return reduce(operation, inputs)
