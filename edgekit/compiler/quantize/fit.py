"""Fits the weights of quantized layers to what the float network computes.

All images go through the Q/DQ graph node by node, twice side by side: exactly, as in the float network, and quantized.
Each layer therefore sees the errors of all layers before it. Its weights are fitted by least squares from its quantized
inputs to its exact outputs (as in GPTAQ, arXiv 2504.02692) and rounded by GPTQ, and its bias takes up the error that
remains on average. Only constants change, so runtimes compile the same kernels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution.memory import subset_that_fits
from edgekit.compiler.execution.node_by_node import NodeByNode, Values
from edgekit.compiler.execution.threads import at_once, side_by_side
from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    constant,
    drop_constants,
    has_int8_weights,
    set_int8_weights,
    shape_of,
)
from edgekit.compiler.quantize.gptq import MOST_INPUTS, Compensation, input_rows, round_levels
from edgekit.compiler.quantize.saturation import pairings_of, safe_scales

MEMORY_BYTES = 1 << 31
"""Memory for the values that later nodes still need, of all images and both sides."""
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
"""Shares of the covariance's mean diagonal that may be added to its diagonal. The larger, the less a weight changes."""
NOISE = 1e-9
"""Variance that any input has, as a share of its mean square."""
ROWS_PER_INPUT = 200
"""Rows that the second moments are taken from, for each input of a layer. More cost time and change little."""
MOST_INPUTS_PER_ROW = 32
"""Inputs of a layer for each row of half of the images. With more, a fit costs minutes and helps on no other image."""
MOMENT_IMAGES = 32
"""Images that these rows come from, if each has enough positions."""


@torch.no_grad()
def fit_weights(graph: GraphModule, samples: Sequence[NDArray[np.float32]], limit_pairs: bool = False) -> int:
    """Fit and round the weights of a Q/DQ graph, in place, on images float32 [1,3,H,W]. Returns the number of layers.

    Uses as many of the images, evenly spaced, as fit into `MEMORY_BYTES`. The weights' scales change too. Layers with
    more than `MOST_INPUTS` inputs are rounded to nearest and get a new bias; those that share weights don't change.
    With `limit_pairs`, no pair of fitted weights saturates on x86 processors without VNNI.
    """
    walk = _Walk(graph, subset_that_fits(graph, samples, MEMORY_BYTES // 2), limit_pairs)
    fitted = sum(walk.visit(node) for node in list(graph.graph.nodes))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return fitted


class _Walk:
    """Visits the nodes in order, and holds the values of both sides until the last node that needs them."""

    def __init__(self, graph: GraphModule, images: Sequence[Tensor], limit_pairs: bool) -> None:
        self._graph, self._nodes, self._limit_pairs = graph, NodeByNode(graph, images), limit_pairs
        self._at_once = at_once(graph)
        self._exact: Values = {}
        self._quantized: Values = {}

    def visit(self, node: Any) -> bool:
        """Compute both sides of a node. If it is a quantized layer, fit it. Returns whether it was fitted."""
        inputs = node.all_input_nodes
        fits = _can_be_fitted(self._graph, node) and isinstance(self._quantized[node.args[0]], list)
        if fits:
            self._quantized[node.args[1]] = self._fit(node)
        for side in (self._exact, self._quantized):
            if side is self._exact and _is_quantization(node):
                side[node] = side[node.args[0]]
            elif node.op != "output":
                side[node] = self._nodes.run(node, side)
        if fits and argument(node, 2, None) is not None:
            self._correct_bias(node)
        self._nodes.forget(inputs, self._exact, self._quantized)
        return fits

    def _fit(self, node: Any) -> Tensor:
        """Give a layer new levels and scales. Returns its new weight, whole multiples of the scales."""
        quantizer = node.args[1].args[0]
        weight, scale = (constant(self._graph, argument) for argument in quantizer.args[:2])
        assert weight is not None
        assert scale is not None
        low, high = quantizer.args[4:6]
        groups = argument(node, 6, 1) if node.target is A.conv2d.default else 1
        best, scales = (part.double().reshape(groups, len(weight) // groups, -1) for part in (weight, scale))
        pairings = pairings_of(node, weight) if self._limit_pairs else []
        if best.shape[2] > MOST_INPUTS:
            levels = (best / scales).round().clamp(low, high)
        else:
            halves = self._moments(node, weight)
            both = halves[0] + halves[1]
            best = best + _correction(best, both, _choose_damping(best, halves))
            widest = torch.maximum(best.abs().amax(2) / high, scales[:, :, 0] / 2)
            scales = safe_scales(best, widest, pairings)[:, :, None].float().double()
            compensation = Compensation.of(both.covariance, list(weight.shape))
            levels = round_levels(best, compensation, scales[:, :, 0], low, high, pairings)
        fitted = (levels * scales).float().view(weight.shape)
        set_int8_weights(self._graph, node, fitted, scales.float().flatten())
        return fitted

    def _moments(self, node: Any, weight: Tensor) -> tuple["_Moments", "_Moments"]:
        """The moments of a layer's inputs in each half of the images."""
        exact, quantized = self._exact[node.args[0]], self._quantized[node.args[0]]
        positions = math.prod(shape_of(node)) // len(weight)
        surplus = len(exact) * positions // (ROWS_PER_INPUT * weight[0].numel())
        skipped = min(max(1, surplus), max(1, len(exact) // MOMENT_IMAGES))
        stride = _stride(surplus // skipped, positions)
        centred = argument(node, 2, None) is not None

        def of_image(sides: tuple[Tensor, Tensor]) -> _Moments:
            return _Moments.of(*(input_rows(node, side, weight)[:, ::stride].contiguous() for side in sides))

        def moments(images: slice) -> _Moments:
            total = _Moments()
            both = list(zip(exact[images], quantized[images], strict=True))
            for part in side_by_side(of_image, both, self._at_once):
                total = total + part
            return total.centred() if centred else total

        first = moments(slice(0, None, 2 * skipped))
        return first, moments(slice(skipped, None, 2 * skipped)) if len(exact) > 1 else first

    def _correct_bias(self, node: Any) -> None:
        """Move the mean error of each channel, over all images and positions, into the layer's bias."""
        axis = 1 if node.target is A.conv2d.default else -1
        error: Any = 0
        for exact, quantized in zip(self._exact[node], self._quantized[node], strict=True):
            error = error + (exact - quantized).movedim(axis, 0).flatten(1).mean(1).double() / len(self._nodes.images)
        bias = constant(self._graph, node.args[2])
        assert bias is not None
        new = add_constant(self._graph, node, f"{node.name}.bias", (bias.double() + error).float())
        old, node.args = node.args, (*node.args[:2], new, *node.args[3:])
        drop_constants(self._graph, old[2:3])
        shift = error.float().view(-1, 1, 1) if axis == 1 else error.float()
        self._quantized[node] = [quantized + shift for quantized in self._quantized[node]]


@dataclass(frozen=True)
class _Moments:
    """Sums over rows of a layer's inputs, float64."""

    rows: int = 0
    exact: Any = 0
    """Sum of the exact rows, [groups,in]."""
    quantized: Any = 0
    """Sum of the quantized rows, [groups,in]."""
    cross: Any = 0
    """Products of the exact with the quantized inputs, [groups,in,in]."""
    covariance: Any = 0
    """Products of the quantized inputs with each other, [groups,in,in]."""

    @classmethod
    def of(cls, exact: Tensor, quantized: Tensor) -> "_Moments":
        """The moments of rows [groups,rows,in]."""
        sides = (exact.double(), quantized.double())
        products = (side.mT @ sides[1] for side in sides)
        return cls(exact.shape[1], *(side.sum(1) for side in sides), *products)

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def centred(self) -> "_Moments":
        """The products about the means, for a layer whose bias takes up the difference of the means."""
        mean = self.quantized[:, None, :] / max(1, self.rows)
        cross, covariance = (s[:, :, None] * mean for s in (self.exact, self.quantized))
        covariance = self.covariance - covariance
        # Differences of large numbers may be slightly negative where inputs hardly vary.
        covariance.diagonal(dim1=1, dim2=2).add_(NOISE * self.covariance.diagonal(dim1=1, dim2=2))
        return replace(self, cross=self.cross - cross, covariance=covariance)


def _choose_damping(weight: Tensor, halves: tuple[_Moments, _Moments]) -> float:
    """The damping with which weights fitted to one half of the images err least on the other half, in both directions.

    Infinity, which leaves the weight as it is, if all of them increase the error, or if there are too few rows.
    """
    first, second = halves
    if first is second or min(first.rows, second.rows) < max(2, weight.shape[2] // MOST_INPUTS_PER_ROW):
        return math.inf

    directions = [(half, other, weight @ other.cross) for half, other in ((first, second), (second, first))]

    def error(damping: float) -> float:
        total = 0.0
        for half, other, wanted in directions:
            fitted = weight + _correction(weight, half, damping)
            total += float((fitted * (fitted @ other.covariance - 2 * wanted)).sum())
        return total

    return min((*DAMPINGS, math.inf), key=error)


def _correction(weight: Tensor, moments: _Moments, damping: float) -> Tensor:
    """What to add to a weight [groups,out,in] so that its outputs come closest to the exact ones."""
    if damping == math.inf:
        return torch.zeros_like(weight)
    damped = moments.covariance.clone()
    diagonal = damped.diagonal(dim1=1, dim2=2)
    diagonal.add_(damping * diagonal.mean(1, keepdim=True) + 1e-20)
    missing = weight @ (moments.cross - moments.covariance)
    return torch.cholesky_solve(missing.mT, torch.linalg.cholesky(damped)).mT


def _stride(wanted: int, positions: int) -> int:
    """The smallest stride from `wanted` on without a common factor with the positions, so that it meets all columns."""
    stride = max(1, wanted)
    while math.gcd(stride, positions) > 1:
        stride += 1
    return stride


def _is_quantization(node: Node) -> bool:
    """Whether the node is one of those that the float network doesn't have."""
    return str(node.target).startswith("quantized_decomposed.")


def _can_be_fitted(graph: GraphModule, node: Any) -> bool:
    """Whether a layer has int8 weights and shares no constant with another layer."""
    if not has_int8_weights(node):
        return False
    dequantizer, bias = node.args[1], argument(node, 2, None)
    own = [dequantizer, dequantizer.args[0], *([] if bias is None else [bias])]
    return all(len(part.users) == 1 for part in own) and (bias is None or constant(graph, bias) is not None)
