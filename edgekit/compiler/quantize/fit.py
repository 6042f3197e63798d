"""Fits the weights of quantized layers to what the float network computes.

All images go through the Q/DQ graph node by node, twice side by side: exactly, as in the float network, and quantized.
Each layer therefore sees the errors of all layers before it. Its weights are fitted by least squares from its quantized
inputs to its exact outputs (as in GPTAQ, arXiv 2504.02692) and rounded by GPTQ, and its bias takes up the error that
remains on average. Only constants change, so runtimes compile the same kernels.
"""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution.node_by_node import NodeByNode, Values, subset_that_fits
from edgekit.compiler.execution.threads import at_once, threads
from edgekit.compiler.graph import constants, set_bias, weight_of
from edgekit.compiler.layers import DenseLayer, axes_but, dense_layer
from edgekit.compiler.nodes import operand, operation_of, shape_of
from edgekit.compiler.quantize.gptq import MOST_INPUTS, Compensation, round_levels
from edgekit.compiler.quantize.moments import Moments, choose_damping, correction, layer_moments
from edgekit.compiler.quantize.pair_limits import pairings_of, safe_scales
from edgekit.compiler.quantizers import QUANTIZATIONS, LayerWeights, int8_weight, set_int8_weights
from edgekit.support.progress import Step, no_step

MEMORY_BYTES = 1 << 31
"""Memory for the values that later nodes still need, of all images and both sides."""

Rounding: TypeAlias = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Tensor]]
"""Returns levels [groups,out,in] and their scales [groups,out], both float64.

It takes the scales before the fit, and the pairs of inputs whose levels must not saturate.
"""


@torch.no_grad()
def fit_weights(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    limit_pairs: bool = False,
    unlimited: MutableMapping[Node, LayerWeights] | None = None,
    step: Step = no_step,
) -> int:
    """Fit and round the weights of a Q/DQ graph, in place, on images float32 [1,3,H,W]. Returns the number of layers.

    Uses as many of the images, evenly spaced, as fit into `MEMORY_BYTES`. The weights' scales change too. Layers with
    more than `MOST_INPUTS` inputs are rounded to nearest and get a new bias. With `limit_pairs`, no pair of fitted
    weights saturates on x86 processors without VNNI. The weights in `unlimited` are fitted too, without this limit.
    """
    return Walk(graph, samples, limit_pairs, unlimited).fit(step)


class Walk:
    """Visits the nodes in order, and holds the values of both sides until the last node that needs them."""

    def __init__(
        self,
        graph: GraphModule,
        samples: Sequence[NDArray[np.float32]],
        limit_pairs: bool = False,
        unlimited: MutableMapping[Node, LayerWeights] | None = None,
    ) -> None:
        self._graph, self._limit_pairs, self._unlimited = graph, limit_pairs, unlimited or {}
        self._nodes = NodeByNode(graph, subset_that_fits(graph, samples, MEMORY_BYTES // 2))
        self._at_once = at_once(graph)
        self._exact: Values = {}
        self._quantized: Values = {}

    def fit(self, step: Step = no_step) -> int:
        """Fit every layer. Returns their number."""
        nodes, fitted = list(self._graph.graph.nodes), 0
        for node in nodes:
            fitted += self._visit(node)
            step(1 / len(nodes))
        self._graph.graph.eliminate_dead_code()
        self._graph.recompile()
        return fitted

    def rounding(self, layer: DenseLayer, best: Tensor, covariance: Tensor | None, limits: tuple[int, int]) -> Rounding:
        """How a layer's best weight, float64 [groups,out,in], is rounded to levels within the limits.

        `covariance` is that of its quantized inputs, [groups,in,in]; None if it has more than `MOST_INPUTS`.
        """
        low, high = limits
        if covariance is None:
            return lambda scales, _: ((best / scales[:, :, None]).round().clamp(low, high), scales)
        compensation = Compensation.of(covariance, list(shape_of(layer.weight)))

        def compensated(scales: Tensor, pairings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            scales = safe_scales(best, torch.maximum(best.abs().amax(2) / high, scales / 2), pairings)
            scales = scales.float().double()
            return round_levels(best, compensation, scales, low, high, pairings), scales

        return compensated

    def _visit(self, node: Node) -> bool:
        """Compute both sides of a node. If it is a quantized layer, fit it. Returns whether it was fitted."""
        inputs = node.all_input_nodes
        layer = _layer_to_fit(self._graph, node)
        if layer is not None and not isinstance(self._quantized[layer.source], list):
            layer = None  # it doesn't depend on the image
        if layer is not None:
            self._quantized[layer.weight] = self._fit(layer)
        for side in (self._exact, self._quantized):
            if side is self._exact and node.target in QUANTIZATIONS:
                side[node] = side[operand(node)]
            elif node.op != "output":
                side[node] = self._nodes.run(node, side)
        if layer is not None and layer.bias is not None:
            self._correct_bias(layer)
        self._nodes.forget(inputs, self._exact, self._quantized)
        return layer is not None

    def _fit(self, layer: DenseLayer) -> Tensor:
        """Give a layer new levels and scales. Returns its new weight, whole multiples of the scales."""
        quantizer = int8_weight(layer.node)
        assert quantizer is not None
        weight, scale = quantizer.weight_and_scale(self._graph)
        best = weight.double().reshape(layer.groups, len(weight) // layer.groups, -1)
        covariance = None
        if best.shape[2] <= MOST_INPUTS:
            exact, quantized = self._exact[layer.source], self._quantized[layer.source]
            halves = layer_moments(layer, best, exact, quantized, self._at_once)
            both = Moments.sum(halves)
            best, covariance = best + correction(both, choose_damping(halves)), both.covariance
        round_to = self.rounding(layer, best, covariance, (quantizer.low, quantizer.high))

        def rounded(scale: Tensor, pairings: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
            """The weight with other scales, and these; `scale` has those of the weight before the fit."""
            levels, scales = round_to(scale.double().view(best.shape[:2]), pairings)
            return (levels * scales[:, :, None]).float().view(weight.shape), scales.float().flatten()

        fitted, scale = rounded(scale, pairings_of(layer, weight) if self._limit_pairs else [])
        set_int8_weights(self._graph, layer.node, fitted, scale)
        if other := self._unlimited.get(layer.node):
            self._unlimited[layer.node] = LayerWeights(*rounded(other.scale), other.bias)
        return fitted

    def _correct_bias(self, layer: DenseLayer) -> None:
        """Move the mean error of each channel, over all images and positions, into the layer's bias."""
        node, axis = layer.node, layer.channel_axis
        bias = weight_of(self._graph, layer.bias)
        error = torch.zeros(len(bias), dtype=torch.float64)
        for exact, quantized in zip(self._exact[node], self._quantized[node], strict=True):
            error += (exact - quantized).mean(axes_but(axis, exact.ndim)) / len(self._nodes.images)
        corrected = (bias.double() + error).float()
        if other := self._unlimited.get(node):
            self._unlimited[node] = replace(other, bias=corrected + self._mean_difference(layer, other.weight))
        set_bias(self._graph, node, f"{node.name}.bias", corrected)
        shift = error.float().view(-1, 1, 1) if axis == 1 else error.float()
        for quantized in self._quantized[node]:
            quantized.add_(shift)

    def _mean_difference(self, layer: DenseLayer, weight: Tensor) -> Tensor:
        """What the layer's outputs lose on average if it gets another weight: [out]. It is linear in its input."""
        inputs = self._quantized[layer.source]
        mean = sum(image / len(inputs) for image in inputs)
        lost = self._quantized[layer.weight] - weight
        with threads(1):  # as all images run; several threads may add the products of many inputs in another order
            difference: Tensor = operation_of(layer.node)(mean, lost, None, *layer.node.args[3:], **layer.node.kwargs)
        return difference.mean(axes_but(layer.channel_axis, difference.ndim))


def _layer_to_fit(graph: GraphModule, node: Node) -> DenseLayer | None:
    """The layer that a node computes, if it has int8 weights and a constant bias or none."""
    layer = dense_layer(node)
    has_constants = layer is not None and int8_weight(node) is not None and constants(graph, layer.bias) is not None
    return layer if has_constants else None
