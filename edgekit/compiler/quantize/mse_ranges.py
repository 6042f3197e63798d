"""Activation ranges that minimize the weighted mean square error of quantization.

An error is weighted by its effect in the layers that consume the value: by the weights of its channel. If an activation
such as GELU or HardSwish consumes the value, the error is that of the activation's output, where values below -3 hardly
differ.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution.collector import Collector, Together
from edgekit.compiler.graph import constant
from edgekit.compiler.layers import dense_layer
from edgekit.compiler.nodes import A, behind_views, is_padding, operation_of, shape_of
from edgekit.compiler.quantize.moments import stride_from
from edgekit.compiler.quantizers import Quantizer, quantizers, set_grid, weight_quantizer_of
from edgekit.support.progress import Step, no_step, parts_of

BINS = 8192
MOST_VALUES, MOST_OF_IMAGE = 1 << 21, 1 << 16
"""Largest numbers of values of an activation that are sampled: of all images, and of one of them."""
SHARES = torch.linspace(0.15, 1, 35, dtype=torch.float64)
"""Shares of the lower and the upper limit of the whole range: candidates for the limits of a narrower one."""
EVERY, FEW_BINS = 4, 1024
"""Of all pairs of shares, those of every fourth share are tried first, and then all pairs next to the best. Where only
`FEW_BINS` bins have values, all pairs are tried: the error is less smooth there, and quickly computed."""

POINTWISE = {
    A.gelu.default, A.silu.default, A.mish.default, A.hardswish.default, A.sigmoid.default, A.hardsigmoid.default,
}  # fmt: skip
"""Activations that map some values to nearly the same output."""


@dataclass(frozen=True)
class Effect:
    """The effect of a quantizer's errors on the operations that consume its value."""

    weights: tuple[int, Tensor] | None
    """Axis of the channels, and the mean square [C] of the weights of each channel; None if errors weigh the same."""
    function: Callable[[Tensor], Tensor]
    """The activation that alone consumes the value, or the identity."""


def effects(graph: GraphModule) -> dict[Node, Effect]:
    """The effects of the quantizers whose ranges `minimize_range_mse` narrows, by their Qs."""
    return {
        quantizer.node: Effect(_channel_weights(graph, quantizer), _consumer_function(quantizer))
        for quantizer in quantizers(graph)
        if not _is_symmetric(quantizer)
    }


@torch.no_grad()
def minimize_range_mse(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    of: Mapping[Node, Effect],
    step: Step = no_step,
    others: Sequence[Collector[Any]] = (),
) -> int:
    """Narrow the activation ranges of a Q/DQ graph, in place, on images float32 [1,C,H,W].

    The graph must have been calibrated on the same images with the whole range of each activation. Symmetric ranges
    stay. `of` has the effects of the quantizers, from a graph that still consumes their values. Reads each image once,
    also for the `others`. Returns the number of ranges changed.
    """
    asymmetric = [quantizer for quantizer in quantizers(graph) if quantizer.node in of]
    histograms = _Histograms(graph, asymmetric, of, len(samples))
    collecting, narrowing = parts_of(step, [1, bool(asymmetric)])
    Together(graph, [histograms, *others]).collect(samples, collecting)
    changed = 0
    for quantizer in asymmetric:
        scale, zero = _best(quantizer, histograms.mass[quantizer.node], of[quantizer.node].function)
        changed += scale != quantizer.scale
        set_grid(quantizer, (scale, zero, *quantizer.grid[2:]))
        narrowing(1 / len(asymmetric))
    graph.recompile()
    return changed


class _Histograms(Collector[Tensor]):
    """Sums, for each quantizer, the weights of the values per bin of its range: float64 [BINS]."""

    def __init__(
        self, graph: GraphModule, of: Sequence[Quantizer], effects: Mapping[Node, Effect], images: int
    ) -> None:
        self._most = max(1, min(MOST_OF_IMAGE, MOST_VALUES // images))
        self._quantizers = {quantizer.node: quantizer for quantizer in of}
        super().__init__(graph, self._quantizers)
        self._effects = effects
        channels = cache(_sampled_channels)  # many activations have the same shape
        self._channels = {
            quantizer.node: channels(tuple(shape_of(quantizer.source)), weights[0], self._most)
            for quantizer in of
            if (weights := effects[quantizer.node].weights) is not None
        }
        self.mass = {node: torch.zeros(BINS, dtype=torch.float64) for node in self._quantizers}

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        sampled = inputs[0].flatten()[:: stride_from(inputs[0].numel() // self._most, inputs[0].numel())].double()
        low, high = self._quantizers[node].representable_range
        bins = sampled.sub_(low).div_(high - low).mul_(BINS).long().clamp_(0, BINS - 1)
        return torch.bincount(bins, self._sample_weights(node), BINS)

    def add(self, node: Node, part: Tensor) -> None:
        self.mass[node] += part

    def _sample_weights(self, node: Node) -> Tensor | None:
        """Weight of each sampled value; None if all weights are equal."""
        weights = self._effects[node].weights
        return None if weights is None else weights[1][self._channels[node]]


def _sampled_channels(shape: Sequence[int], axis: int, most: int) -> Tensor:
    """The channel of each sampled value of an activation; the axis of the channels may be negative."""
    values, inner = math.prod(shape), math.prod(shape[axis % len(shape) + 1 :])
    return torch.arange(0, values, stride_from(values // most, values)) // inner % shape[axis]


def consumers(quantizer: Quantizer) -> list[Node]:
    """Consumers of a quantizer's output, looking through DQ, padding and the views that follow rows."""
    users = (user for dequantize in quantizer.node.users for user in dequantize.users)
    return [next(iter(user.users)) if is_padding(user) else behind_views(user) for user in users]


def _is_symmetric(quantizer: Quantizer) -> bool:
    """Whether a kernel needs the zero point 0, as for the queries and keys of attention."""
    return any(user.target is A.scaled_dot_product_attention.default for user in consumers(quantizer))


def _channel_weights(graph: GraphModule, quantizer: Quantizer) -> tuple[int, Tensor] | None:
    """(axis, mean square [C] of the weights of each channel); None if not only dense layers consume the value."""
    total, axis = None, -1
    for user in consumers(quantizer):
        layer = dense_layer(user)
        of_weight = None if layer is None else weight_quantizer_of(layer.weight)
        weight = None if of_weight is None else constant(graph, of_weight.source)
        if layer is None or weight is None or layer.groups != 1:
            return None
        # Q either stands directly before a convolution, or on the rows that views turn into its input.
        axis = 1 if layer.is_conv and layer.source.target is not A.permute.default else -1
        square = weight.double().square().movedim(1, 0).flatten(1).mean(1)
        total = square if total is None else total + square
    return None if total is None else (axis, total / total.mean())


def _best(quantizer: Quantizer, mass: Tensor, output: Callable[[Tensor], Tensor]) -> tuple[float, int]:
    """Scale and zero point of the range with the smallest error of the output."""
    least, most = quantizer.low, quantizer.high
    low, high = quantizer.representable_range
    (filled,) = mass.nonzero(as_tuple=True)  # most bins of a small activation, or of one with outliers, are empty
    values, mass = low + (filled.double() + 0.5) * (high - low) / BINS, mass[filled]
    wanted = output(values)
    whole, every = len(SHARES) - 1, EVERY if len(filled) > FEW_BINS else 1
    best: tuple[float, float, int] = (math.inf, quantizer.scale, quantizer.zero_point)
    pair = whole, whole

    def search(lower: range, upper: range) -> None:
        nonlocal best, pair
        shares = SHARES[upper.start : upper.stop : upper.step]
        for index in lower:
            share = SHARES[index]
            scales = (high * shares - low * share).clamp(min=1e-12) / (most - least)
            zeros = (least - low * share / scales).round().clamp(least, most)
            levels = (values / scales[:, None]).round().add_(zeros[:, None]).clamp_(least, most)
            rounded = levels.sub_(zeros[:, None]).mul_(scales[:, None])
            errors = ((output(rounded) - wanted).square_() * mass).sum(1)
            found = int(errors.argmin())
            if errors[found] < best[0]:
                best, pair = (float(errors[found]), float(scales[found]), int(zeros[found])), (index, upper[found])

    coarse = range(whole % every, whole + 1, every)
    search(coarse if low < 0 else range(whole, whole + 1), coarse)
    lower, upper = (range(max(0, index + 1 - every), min(whole, index - 1 + every) + 1) for index in pair)
    search(lower if low < 0 else range(whole, whole + 1), upper)
    return best[1:]


def _consumer_function(quantizer: Quantizer) -> Callable[[Tensor], Tensor]:
    """The activation that alone consumes a quantizer's output, or the identity."""
    users = consumers(quantizer)
    if len(users) != 1 or users[0].target not in POINTWISE:
        return lambda values: values
    (activation,) = users
    function = operation_of(activation)
    return lambda values: function(values, *activation.args[1:], **activation.kwargs)
