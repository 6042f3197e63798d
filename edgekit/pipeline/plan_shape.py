"""The shape of a network, measured on torch's meta device, without weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from edgekit.compiler.rewrites import ConvolutionShape
from edgekit.errors import ModelError
from edgekit.images.preprocess import CHANNELS
from edgekit.models.loading import build_meta
from edgekit.models.options import ModelOptions
from edgekit.models.weights import run_on_rgb_or_grey

_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


@dataclass(frozen=True)
class Shape:
    """The properties of a network from which sizes and memory follow."""

    params: int
    macs: int
    dense: tuple[tuple[str, int, int, bool], ...]
    """(name, number of weights, output channels, depthwise) of each convolution, Linear and product with a matrix."""
    expanded: int
    """Values of a graph's constants beyond its parameters: relative position biases of each pair of positions."""
    convolutions: tuple[ConvolutionShape, ...]
    """All convolutions that an image passes."""
    channels: int
    """Channels of an image."""
    size: tuple[int, int]
    """Input size (height, width) in pixels."""


class _MatrixProducts(TorchFunctionMode):
    """Collects the matrices [in,out] among a network's parameters that `forward` multiplies with, which run in INT8."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices: set[nn.Parameter] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and isinstance(args[-1], nn.Parameter) and args[-1].ndim == 2:
            self.matrices.add(args[-1])
        return func(*args, **(kwargs or {}))


def shape_of_model(options: ModelOptions) -> Shape:
    """Measure the shape of a network without creating its weights."""
    module, size = build_meta(options)
    counter, products = FlopCounterMode(display=False), _MatrixProducts()
    convolutions: dict[nn.Conv2d, ConvolutionShape] = {}

    def image(channels: int) -> torch.Tensor:
        return torch.zeros(1, channels, *size, device="meta")

    def see(layer: Any, _: object, output: torch.Tensor) -> None:
        convolutions[layer] = _convolution_shape(layer, output)

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(see)
    try:
        with torch.no_grad():
            with counter, products:
                channels, _ = run_on_rgb_or_grey(module, image)
            if channels != CHANNELS[0]:  # else what failed is counted too
                with counter, products:
                    module(image(channels))
    except Exception as error:  # a network may raise anything on an unsupported size, or on meta tensors
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"can't plan '{options.name}' at {size[0]}x{size[1]} ({type(error).__name__}: {reason})",
            fix="Correct `--imgsz` or `--model-args`; a network that uses tensors of its module can be "
            "deployed without a plan",
        ) from error
    dense = [
        (name, layer.weight.numel(), layer.weight.shape[0], getattr(layer, "groups", 1) > 1)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    for name, parameter in module.named_parameters():
        if parameter in products.matrices:
            dense.append((name, parameter.numel(), parameter.shape[1], False))
    params = sum(parameter.numel() for parameter in module.parameters())
    # The flop counter counts a multiply-accumulate as two operations.
    macs = counter.get_total_flops() // 2
    return Shape(params, macs, tuple(dense), _expanded(module), tuple(convolutions.values()), channels, size)


def _convolution_shape(layer: nn.Conv2d, output: torch.Tensor) -> ConvolutionShape:
    """The shape of an exported convolution. Padding with anything but zeros is a separate node, so it doesn't count."""
    padding = layer.padding if layer.padding_mode == "zeros" else (0, 0)
    if isinstance(padding, str):
        sides = zip(layer.kernel_size, layer.dilation, strict=True)
        padding = tuple(dilation * (size - 1) // 2 if padding == "same" else 0 for size, dilation in sides)
    weight, extent = tuple(layer.weight.shape), tuple(output.shape[-2:])
    return ConvolutionShape(weight, extent, layer.stride, padding, layer.dilation, layer.groups)


def _expanded(module: nn.Module) -> int:
    count = 0
    for layer in module.modules():
        index, table = (getattr(layer, f"relative_position_{name}", None) for name in ("index", "bias_table"))
        if isinstance(index, torch.Tensor) and isinstance(table, torch.Tensor):
            count += index.numel() * table.shape[-1]
    return count
