"""Activation ranges that minimize the weighted mean square error of quantization.

An error is weighted by its effect in the layers that consume the value: by the weights of its channel. If an activation
such as GELU or HardSwish consumes the value, the error is that of the activation's output, where values below -3 hardly
differ.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution.collector import Collector
from edgekit.compiler.graph import A, Q, behind_views, constant, is_padding

BINS = 8192
MOST_VALUES = 1 << 16
"""Number of values of an activation that are sampled per image."""
SHARES = torch.linspace(0.15, 1, 35, dtype=torch.float64)
"""Shares of the lower and the upper limit of the whole range. Every pair of shares is tried."""

POINTWISE = {A.gelu.default, A.silu.default, A.hardswish.default, A.sigmoid.default, A.hardsigmoid.default}
"""Activations that map some values to nearly the same output."""


@torch.no_grad()
def minimize_range_mse(graph: GraphModule, samples: Sequence[NDArray[np.float32]]) -> int:
    """Narrow the activation ranges of a Q/DQ graph, in place, on images float32 [1,C,H,W].

    The graph must have been calibrated on the same images with the whole range of each activation. Symmetric ranges
    stay. Returns the number of ranges changed.
    """
    quantizers = graph.graph.find_nodes(op="call_function", target=Q.quantize_per_tensor.default)
    nodes = [node for node in quantizers if not _is_symmetric(node)]
    histograms = _Histograms(graph, nodes)
    histograms.collect(samples)
    changed = 0
    for node in nodes:
        scale, zero = _best(node, histograms.mass[node])
        changed += scale != node.args[1]
        for part in (node, *(user for user in node.users if user.target is Q.dequantize_per_tensor.default)):
            part.args = (part.args[0], scale, zero, *part.args[3:])
    graph.recompile()
    return changed


class _Histograms(Collector[Tensor]):
    """Sums, for each quantizer, the weights of the values per bin of its range: float64 [BINS]."""

    def __init__(self, graph: GraphModule, nodes: Sequence[Node]) -> None:
        super().__init__(graph, nodes)
        self._weights = {node: _channel_weights(graph, node) for node in nodes}
        self.mass = {node: torch.zeros(BINS, dtype=torch.float64) for node in nodes}

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        x = inputs[0]
        step = _step(x.numel())
        low, high = representable_range(node)
        bins = ((x.flatten()[::step].double() - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
        return torch.bincount(bins, self._sample_weights(node, x, step), BINS)

    def add(self, node: Node, part: Tensor) -> None:
        self.mass[node] += part

    def _sample_weights(self, node: Node, x: Tensor, step: int) -> Tensor | None:
        """Weight of each sampled value; None if all weights are equal."""
        weights = self._weights[node]
        if weights is None:
            return None
        axis, per_channel = weights
        shape = [-1 if dimension == axis % x.ndim else 1 for dimension in range(x.ndim)]
        return per_channel.view(shape).expand_as(x).flatten()[::step]


def _step(count: int) -> int:
    """Stride of the sampling. It has no common factor with the size of any axis, so every position is sampled."""
    step = max(1, count // MOST_VALUES)
    while math.gcd(step, count) > 1:
        step += 1
    return step


def consumers(node: Any) -> list[Any]:
    """Consumers of a quantizer's output, looking through DQ, padding and the views behind rows."""
    users = (user for dequantize in node.users for user in dequantize.users)
    return [next(iter(user.users)) if is_padding(user) else behind_views(user) for user in users]


def _is_symmetric(node: Any) -> bool:
    """Whether a kernel needs the zero point 0, as for the queries and keys of attention."""
    return any(user.target is A.scaled_dot_product_attention.default for user in consumers(node))


def representable_range(node: Any) -> tuple[float, float]:
    """Smallest and largest value that a quantizer can represent."""
    _, scale, zero, low, high = node.args[:5]
    return (low - zero) * scale, (high - zero) * scale


def _channel_weights(graph: GraphModule, node: Any) -> tuple[int, Tensor] | None:
    """(axis, mean square [C] of the weights of each channel); None if not only dense layers consume the value."""
    total, axis = None, -1
    for layer in consumers(node):
        dequantizer = layer.args[1] if layer.target in (A.conv2d.default, A.linear.default) else None
        if dequantizer is None or dequantizer.target is not Q.dequantize_per_channel.default:
            return None
        weight = constant(graph, dequantizer.args[0].args[0])
        if weight is None or (layer.target is A.conv2d.default and len(layer.args) > 6 and layer.args[6] != 1):
            return None
        # Q either stands directly before a convolution, or on the rows that views turn into its input.
        axis = 1 if layer.target is A.conv2d.default and layer.args[0].target is not A.permute.default else -1
        square = weight.double().square().movedim(1, 0).flatten(1).mean(1)
        total = square if total is None else total + square
    return None if total is None else (axis, total / total.mean())


def _best(node: Any, mass: Tensor) -> tuple[float, int]:
    """Scale and zero point of the range with the smallest error."""
    _, whole_scale, whole_zero, least, most = node.args[:5]
    low, high = representable_range(node)
    values = low + (torch.arange(BINS, dtype=torch.float64) + 0.5) * (high - low) / BINS
    output = _consumer_function(node)
    wanted = output(values)
    best: tuple[float, float, int] = (math.inf, whole_scale, whole_zero)
    for share in SHARES if low < 0 else SHARES[-1:]:
        scales = (high * SHARES - low * share).clamp(min=1e-12) / (most - least)
        zeros = (least - low * share / scales).round().clamp(least, most)
        levels = (values / scales[:, None]).round().add_(zeros[:, None]).clamp_(least, most)
        rounded = levels.sub_(zeros[:, None]).mul_(scales[:, None])
        errors = ((output(rounded) - wanted).square_() * mass).sum(1)
        index = int(errors.argmin())
        if errors[index] < best[0]:
            best = (float(errors[index]), float(scales[index]), int(zeros[index]))
    return best[1:]


def _consumer_function(node: Any) -> Callable[[Tensor], Tensor]:
    """The activation that alone consumes a quantizer's output, or the identity."""
    users = consumers(node)
    if len(users) != 1 or users[0].target not in POINTWISE:
        return lambda values: values
    (activation,) = users
    return lambda values: activation.target(values, *activation.args[1:], **activation.kwargs)
