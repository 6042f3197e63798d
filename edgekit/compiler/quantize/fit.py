"""Fits the weights of quantized layers to what the float network computes.

All images go through the Q/DQ graph node by node, twice side by side: exactly, as in the float network, and quantized.
Each layer therefore sees the errors of all layers before it. Its weights are fitted by least squares from its quantized
inputs to its exact outputs (as in GPTAQ, arXiv 2504.02692) and rounded by GPTQ, and its bias takes up the error that
remains on average. Only constants change, so runtimes compile the same kernels.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import A, Q, add_constant, argument, constant, drop_constants
from edgekit.compiler.quantize.gptq import MOST_INPUTS, input_rows, round_levels

MEMORY_BYTES = 1 << 31
"""Memory for the values that later nodes still need, of all images and both sides."""
DAMPING = 0.01
"""Share of the covariance's mean diagonal that is added to its diagonal; more where few rows meet many inputs."""

Values = dict[Any, Any]
"""What each node gives: a list with one value per image, or a single value if it doesn't depend on the image."""


@torch.no_grad()
def fit_weights(graph: GraphModule, samples: Sequence[NDArray[np.float32]]) -> int:
    """Fit and round the weights of a Q/DQ graph, in place, on images float32 [1,3,H,W]. Returns the number of layers.

    Uses as many of the images, evenly spaced, as fit into `MEMORY_BYTES`. The weights' scales change too. Layers with
    more than `MOST_INPUTS` inputs are rounded to nearest and get a new bias; those that share weights don't change.
    """
    images = [torch.from_numpy(sample) for sample in samples]
    most = max(1, MEMORY_BYTES // (2 * _live_bytes(graph, images[0])))
    if most < len(images):
        images = [images[index * len(images) // most] for index in range(most)]
    walk = _Walk(graph, images)
    fitted = sum(walk.visit(node) for node in list(graph.graph.nodes))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return fitted


def _live_bytes(graph: GraphModule, image: Tensor) -> int:
    """The most bytes that the values of one image take at the same time."""
    counter = _LiveBytes(graph)
    counter.run(image)
    return counter.most


class _LiveBytes(Interpreter):
    most = 1

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        live = (value, *(held for node, held in self.env.items() if node.op != "get_attr"))
        self.most = max(self.most, sum(tensor.nbytes for tensor in live if isinstance(tensor, Tensor)))
        return value


@dataclass(frozen=True)
class _Fitted:
    """New constants of a layer."""

    weight: Tensor
    """Whole multiples of the scale, float32, in the shape of the old weight."""
    scale: Tensor
    """float32 [out]"""
    bias: Tensor | None
    """float32 [out]; None if the layer has no bias."""


class _Walk:
    """Visits the nodes in order, and holds the values of both sides until the last node that needs them."""

    def __init__(self, graph: GraphModule, images: Sequence[Tensor]) -> None:
        self._graph, self._images = graph, images
        self._interpreter = Interpreter(graph)
        self._users_left = Counter(used for node in graph.graph.nodes for used in node.all_input_nodes)
        self._exact: Values = {}
        self._quantized: Values = {}

    def visit(self, node: Any) -> bool:
        """Compute both sides of a node. If it is a quantized layer, fit it before. Returns whether it was fitted."""
        fitted = self._fit(node) if _is_quantized_layer(self._graph, node) else None
        if fitted is not None:
            self._quantized[node.args[1]] = fitted.weight
            if fitted.bias is not None:
                self._quantized[node.args[2]] = fitted.bias
        for side in (self._exact, self._quantized):
            if node.op == "placeholder":
                side[node] = list(self._images)
            elif side is self._exact and _is_quantization(node):
                side[node] = side[node.args[0]]
            elif node.op != "output":
                side[node] = self._run(node, side)
        for used in node.all_input_nodes:
            self._users_left[used] -= 1
            if not self._users_left[used]:
                del self._exact[used], self._quantized[used]
        if fitted is not None:
            _replace_constants(self._graph, node, fitted)
        return fitted is not None

    def _run(self, node: Node, side: Values) -> Any:
        def compute(index: int) -> Any:
            def value(used: Node) -> Any:
                return side[used][index] if isinstance(side[used], list) else side[used]

            args, kwargs = map_arg(node.args, value), map_arg(node.kwargs, value)
            return getattr(self._interpreter, node.op)(node.target, args, kwargs)

        per_image = any(isinstance(side[used], list) for used in node.all_input_nodes)
        return [compute(index) for index in range(len(self._images))] if per_image else compute(0)

    def _fit(self, node: Any) -> _Fitted | None:
        quantizer = node.args[1].args[0]
        weight, scale = (constant(self._graph, argument) for argument in quantizer.args[:2])
        exact, quantized = self._exact[node.args[0]], self._quantized[node.args[0]]
        if weight is None or scale is None or not isinstance(quantized, list):
            return None
        bias = self._exact[node.args[2]] if argument(node, 2, None) is not None else None
        groups = argument(node, 6, 1) if node.target is A.conv2d.default else 1
        moments = _Moments(node, weight, exact, quantized, centred=bias is not None)
        wanted = weight.double().view(groups, len(weight) // groups, -1)
        scale = scale.double().view(groups, -1)
        low, high = quantizer.args[4:6]
        if moments.covariance is None:
            levels = (wanted / scale[:, :, None]).round().clamp(low, high)
        else:
            best = wanted + moments.correction(wanted)
            scale = torch.maximum(best.abs().amax(2) / high, scale / 2).float().double()
            levels = round_levels(best, moments.covariance, scale, low, high)
        rounded = levels * scale[:, :, None]
        if bias is not None:
            shift = wanted @ moments.exact_mean[:, :, None] - rounded @ moments.quantized_mean[:, :, None]
            bias = (bias.double() + shift.flatten()).float()
        return _Fitted(rounded.float().view(weight.shape), scale.float().flatten(), bias)


class _Moments:
    """First and second moments of a layer's inputs over all images and positions, float64."""

    covariance: Tensor | None = None
    """Of the quantized inputs, [groups,in,in]; None if there are more than `MOST_INPUTS`."""

    def __init__(
        self, node: Node, weight: Tensor, exact: Sequence[Tensor], quantized: Sequence[Tensor], *, centred: bool
    ) -> None:
        """With `centred`, the second moments are about the means: the layer's bias takes up their differences."""
        inputs = weight[0].numel()
        self._rows = 0
        covariance: Any = 0
        cross: Any = 0
        exact_sum: Any = 0
        quantized_sum: Any = 0
        for exactly, approximately in zip(exact, quantized, strict=True):
            wants, gets = (input_rows(node, side, weight) for side in (exactly, approximately))
            self._rows += gets.shape[1]
            exact_sum += wants.double().sum(1)
            quantized_sum += gets.double().sum(1)
            if inputs <= MOST_INPUTS:
                covariance += (gets.mT @ gets).double()
                cross += (wants.mT @ gets).double()
        self.exact_mean, self.quantized_mean = exact_sum / self._rows, quantized_sum / self._rows
        if inputs > MOST_INPUTS:
            return
        self.covariance, self._cross = covariance / self._rows, cross / self._rows
        if centred:
            self.covariance -= self.quantized_mean[:, :, None] * self.quantized_mean[:, None, :]
            self._cross -= self.exact_mean[:, :, None] * self.quantized_mean[:, None, :]

    def correction(self, weight: Tensor) -> Tensor:
        """What to add to a weight [groups,out,in] so that its outputs come closest to the exact ones."""
        assert self.covariance is not None
        damped = self.covariance.clone()
        diagonal = damped.diagonal(dim1=1, dim2=2)
        share = DAMPING * (1 + 20 * weight.shape[2] / self._rows)
        diagonal.add_(share * diagonal.mean(1, keepdim=True) + 1e-20)
        correction: Tensor = torch.linalg.solve(damped, weight @ (self._cross - self.covariance), left=False)
        return correction


def _is_quantization(node: Node) -> bool:
    """Whether the node is one of those that the float network doesn't have."""
    return str(node.target).startswith("quantized_decomposed.")


def _is_quantized_layer(graph: GraphModule, node: Any) -> bool:
    """Whether a node has int8 weights with a scale per output channel, and constants of its own."""
    if node.target not in (A.conv2d.default, A.linear.default):
        return False
    dequantizer = node.args[1]
    if dequantizer.target is not Q.dequantize_per_channel.default or dequantizer.args[3] != 0:
        return False
    bias = argument(node, 2, None)
    own = [dequantizer, dequantizer.args[0], *([] if bias is None else [bias])]
    return all(len(part.users) == 1 for part in own) and (bias is None or constant(graph, bias) is not None)


def _replace_constants(graph: GraphModule, node: Any, fitted: _Fitted) -> None:
    dequantizer = node.args[1]
    quantizer = dequantizer.args[0]
    old = [*quantizer.args[:2], argument(node, 2, None)]
    weight = add_constant(graph, quantizer, f"{node.name}.fitted", fitted.weight)
    scale = add_constant(graph, quantizer, f"{node.name}.scale", fitted.scale)
    quantizer.args = (weight, scale, *quantizer.args[2:])
    dequantizer.args = (quantizer, scale, *dequantizer.args[2:])
    if fitted.bias is not None:
        bias = add_constant(graph, node, f"{node.name}.bias", fitted.bias)
        bias.meta["val"] = fitted.bias
        node.args = (*node.args[:2], bias, *node.args[3:])
    drop_constants(graph, old)
