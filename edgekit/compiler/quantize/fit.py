"""Fits the weights of quantized layers to what the float network computes.

All images go through the Q/DQ graph node by node, twice side by side: exactly, as in the float network, and quantized.
Each layer therefore sees the errors of all layers before it. Its weights are fitted by least squares from its quantized
inputs to its exact outputs (as in GPTAQ, arXiv 2504.02692) and rounded by GPTQ, and its bias takes up the error that
remains on average. Only constants change, so runtimes compile the same kernels.
"""

import math
import operator
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution.memory import subset_that_fits
from edgekit.compiler.execution.node_by_node import NodeByNode, Values
from edgekit.compiler.execution.threads import at_once, side_by_side
from edgekit.compiler.graph import (
    add_constant,
    constant,
    drop_constants,
    operand,
    operation_of,
    shape_of,
    weight_of,
)
from edgekit.compiler.layers import DenseLayer, dense_layer
from edgekit.compiler.quantize.gptq import MOST_INPUTS, Compensation, input_rows, round_levels
from edgekit.compiler.quantize.saturation import pairings_of, safe_scales
from edgekit.compiler.quantizers import QUANTIZATIONS, LayerWeights, int8_weight, set_int8_weights

MEMORY_BYTES = 1 << 31
"""Memory for the values that later nodes still need, of all images and both sides."""
WIDE = 1024
"""Inputs of a layer above which the damping is validated on one half of the images, not on each half."""
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
"""Shares of the covariance's mean diagonal that may be added to its diagonal. The larger, the less a weight changes."""
ROWS_PER_INPUT = 200
"""Rows sampled per input of a layer to estimate second moments. More rows cost time and change little."""
MOST_INPUTS_PER_ROW = 32
"""Largest ratio of a layer's inputs to the rows in one half of the images. Above it, a fit takes minutes and doesn't
generalize."""
MOMENT_IMAGES = 32
"""Images that these rows come from, if each has enough positions."""
INPUTS_PER_ROW = 2
"""Images are taken together until they have one row for this many inputs. With fewer, most of the time would go into
adding matrices of [in,in]."""


@torch.no_grad()
def fit_weights(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    limit_pairs: bool = False,
    unlimited: MutableMapping[Node, LayerWeights] | None = None,
) -> int:
    """Fit and round the weights of a Q/DQ graph, in place, on images float32 [1,3,H,W]. Returns the number of layers.

    Uses as many of the images, evenly spaced, as fit into `MEMORY_BYTES`. The weights' scales change too. Layers with
    more than `MOST_INPUTS` inputs are rounded to nearest and get a new bias; those that share weights don't change.
    With `limit_pairs`, no pair of fitted weights saturates on x86 processors without VNNI. The weights in `unlimited`
    are fitted too, without this limit.
    """
    walk = _Walk(graph, subset_that_fits(graph, samples, MEMORY_BYTES // 2), limit_pairs, unlimited or {})
    fitted = sum(walk.visit(node) for node in list(graph.graph.nodes))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return fitted


class _Walk:
    """Visits the nodes in order, and holds the values of both sides until the last node that needs them."""

    def __init__(
        self,
        graph: GraphModule,
        images: Sequence[Tensor],
        limit_pairs: bool,
        unlimited: MutableMapping[Node, LayerWeights],
    ) -> None:
        self._graph, self._nodes, self._limit_pairs = graph, NodeByNode(graph, images), limit_pairs
        self._unlimited = unlimited
        self._at_once = at_once(graph)
        self._exact: Values = {}
        self._quantized: Values = {}

    def visit(self, node: Node) -> bool:
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
        low, high = quantizer.low, quantizer.high
        best = weight.double().reshape(layer.groups, len(weight) // layer.groups, -1)
        compensation = None
        if best.shape[2] <= MOST_INPUTS:
            halves = self._moments(layer, best)
            both = halves[0] + halves[1]
            best = best + _correction(both, _choose_damping(halves))
            compensation = Compensation.of(both.covariance, list(weight.shape))

        def rounded(scale: Tensor, pairings: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
            """The weight with other scales, and these; `scale` has those of the weight before the fit."""
            scales = scale.double().view(best.shape[:2])
            if compensation is None:
                levels = (best / scales[:, :, None]).round().clamp(low, high)
            else:
                scales = safe_scales(best, torch.maximum(best.abs().amax(2) / high, scales / 2), pairings)
                scales = scales.float().double()
                levels = round_levels(best, compensation, scales, low, high, pairings)
            return (levels * scales[:, :, None]).float().view(weight.shape), scales.float().flatten()

        fitted, scale = rounded(scale, pairings_of(layer, weight) if self._limit_pairs else [])
        set_int8_weights(self._graph, layer.node, fitted, scale)
        if other := self._unlimited.get(layer.node):
            self._unlimited[layer.node] = LayerWeights(*rounded(other.scale), other.bias)
        return fitted

    def _moments(self, layer: DenseLayer, weight: Tensor) -> tuple["_Moments", "_Moments"]:
        """The moments of a layer with a weight [groups,out,in] in each half of the images."""
        exact, quantized = self._exact[layer.source], self._quantized[layer.source]
        groups, outputs, inputs = weight.shape
        positions = math.prod(shape_of(layer.node)) // (groups * outputs)
        surplus = len(exact) * positions // (ROWS_PER_INPUT * inputs)
        skipped = min(max(1, surplus), max(1, len(exact) // MOMENT_IMAGES))
        stride = _stride(surplus // skipped, positions)

        def rows(images: Sequence[Tensor]) -> Tensor:
            return torch.cat([input_rows(layer, image)[:, ::stride] for image in images], 1)

        together = max(1, inputs * stride // (INPUTS_PER_ROW * positions))

        def moments(images: slice) -> _Moments:
            both = list(zip(exact[images], quantized[images], strict=True))
            centre = torch.zeros(groups, 1, inputs)
            if layer.bias is not None:  # which takes up the difference of the means
                centre = torch.stack([rows([image]).mean(1, keepdim=True) for image in quantized[images]]).mean(0)

            def of_images(images: list[tuple[Tensor, Tensor]]) -> _Moments:
                exact_rows, quantized_rows = (rows(side) for side in zip(*images, strict=True))
                return _Moments.of(weight.float(), exact_rows, quantized_rows, centre)

            parts = [both[start : start + together] for start in range(0, len(both), together)]
            return reduce(operator.add, side_by_side(of_images, parts, self._at_once))

        first = moments(slice(0, None, 2 * skipped))
        return first, moments(slice(skipped, None, 2 * skipped)) if len(exact) > 1 else first

    def _correct_bias(self, layer: DenseLayer) -> None:
        """Move the mean error of each channel, over all images and positions, into the layer's bias."""
        node, axis = layer.node, layer.channel_axis
        bias = weight_of(self._graph, layer.bias)
        error = torch.zeros(len(bias), dtype=torch.float64)
        for exact, quantized in zip(self._exact[node], self._quantized[node], strict=True):
            error = error + (exact - quantized).movedim(axis, 0).flatten(1).mean(1).double() / len(self._nodes.images)
        corrected = (bias.double() + error).float()
        if other := self._unlimited.get(node):
            self._unlimited[node] = replace(other, bias=corrected + self._mean_difference(layer, other.weight))
        new = add_constant(self._graph, node, f"{node.name}.bias", corrected)
        old, node.args = node.args, (*node.args[:2], new, *node.args[3:])
        drop_constants(self._graph, old[2:3])
        shift = error.float().view(-1, 1, 1) if axis == 1 else error.float()
        self._quantized[node] = [quantized + shift for quantized in self._quantized[node]]

    def _mean_difference(self, layer: DenseLayer, weight: Tensor) -> Tensor:
        """What the layer's outputs lose on average if it gets another weight: [out]. It is linear in its input."""
        inputs = self._quantized[layer.source]
        mean = sum(image / len(inputs) for image in inputs)
        lost = self._quantized[layer.weight] - weight
        difference: Tensor = operation_of(layer.node)(mean, lost, None, *layer.node.args[3:], **layer.node.kwargs)
        return difference.movedim(layer.channel_axis, 0).flatten(1).mean(1)


@dataclass(frozen=True)
class _Moments:
    """Sums over rows of inputs, float64. An error is the output from an exact row minus that from the quantized row."""

    rows: int
    missing: Tensor
    """Products of the errors with the quantized inputs about the centre, [groups,out,in]."""
    covariance: Tensor
    """Products of the quantized inputs about the centre with each other, [groups,in,in]."""

    @classmethod
    def of(cls, weight: Tensor, exact: Tensor, quantized: Tensor, centre: Tensor) -> "_Moments":
        """The moments of rows [groups,rows,in] about the centre [groups,1,in], all float32."""
        difference, quantized = (exact - quantized).mT, quantized - centre
        outputs, inputs, rows = *weight.shape[1:], exact.shape[1]
        if 2 * outputs * rows < inputs * (outputs + rows):
            missing = (weight @ difference) @ quantized
        else:
            missing = weight @ (difference @ quantized)
        return cls(rows, missing.double(), (quantized.mT @ quantized).double())

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def error_on(self, other: "_Moments", damping: float) -> float:
        """The squared error on other rows after a fit to these, minus that without a fit."""
        change = _correction(self, damping, torch.float32)
        remaining = change @ other.covariance.float() - 2 * other.missing.float()
        return float((change * remaining).sum())


def _choose_damping(halves: tuple[_Moments, _Moments]) -> float:
    """The damping with the smallest cross-validation error between the halves of the images.

    Infinity, which leaves the weight as it is, if all of them increase the error, or if there are too few rows.
    """
    first, second = halves
    inputs = first.covariance.shape[1]
    if first is second or min(first.rows, second.rows) < max(2, inputs // MOST_INPUTS_PER_ROW):
        return math.inf
    folds = [(first, second), (second, first)][: 1 if inputs > WIDE else 2]
    return min((*DAMPINGS, math.inf), key=lambda damping: sum(half.error_on(other, damping) for half, other in folds))


def _correction(moments: _Moments, damping: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """The change of a weight [groups,out,in] with which its outputs come closest to the exact ones."""
    if damping == math.inf:
        return torch.zeros_like(moments.missing, dtype=dtype)
    damped = moments.covariance.to(dtype, copy=True)
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal.add_(damping * diagonal.mean(1, keepdim=True) + 1e-20)
    return torch.cholesky_solve(moments.missing.mT.to(dtype), torch.linalg.cholesky(damped)).mT


def _stride(wanted: int, positions: int) -> int:
    """The smallest stride from `wanted` on without a common factor with the positions, so that it meets all columns."""
    stride = max(1, wanted)
    while math.gcd(stride, positions) > 1:
        stride += 1
    return stride


def _layer_to_fit(graph: GraphModule, node: Node) -> DenseLayer | None:
    """The layer that a node computes, if it has int8 weights and shares no constant with another layer."""
    layer, quantizer = dense_layer(node), int8_weight(node)
    if layer is None or quantizer is None or (layer.bias is not None and constant(graph, layer.bias) is None):
        return None
    own = [layer.weight, quantizer.node, *([] if layer.bias is None else [layer.bias])]
    return layer if all(len(part.users) == 1 for part in own) else None
