"""Quantizers of a calibrated graph: pairs of a quantize and a dequantize node (Q/DQ) between a value and its users."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import add_constant, constants, drop_constants, set_value, weight_of
from edgekit.compiler.layers import DenseLayer, dense_layer
from edgekit.compiler.nodes import Q, literal, operand

QUANTIZE, DEQUANTIZE = Q.quantize_per_tensor.default, Q.dequantize_per_tensor.default
QUANTIZE_CHANNELS, DEQUANTIZE_CHANNELS = Q.quantize_per_channel.default, Q.dequantize_per_channel.default
QUANTIZATIONS = {QUANTIZE, DEQUANTIZE, QUANTIZE_CHANNELS, DEQUANTIZE_CHANNELS}
"""Operations that the float network doesn't have."""

_OWNERS = "edgekit_owners"
"""Key of a DQ's meta data for the layers that it serves."""
_PLACES = "edgekit_places"
"""Key of a Q's meta data for the places where its levels are read or written."""

Grid: TypeAlias = tuple[float, int, int, int, torch.dtype]
"""Scale, zero point, lowest level, highest level and dtype of the levels: the arguments that Q and DQ share."""


@dataclass(frozen=True)
class Quantizer:
    """A quantizer with one scale, as its Q describes it. It becomes stale when the node changes.

    The level of a value is round(value / scale) + zero_point, clamped to the range from `low` to `high`.
    """

    node: Node
    """Q of the pair."""
    scale: float
    zero_point: int
    low: int
    high: int
    dtype: torch.dtype

    @property
    def source(self) -> Node:
        """Node whose value it quantizes."""
        return operand(self.node)

    @property
    def grid(self) -> Grid:
        """Arguments of Q and DQ after the first."""
        return self.scale, self.zero_point, self.low, self.high, self.dtype

    @property
    def representable_range(self) -> tuple[float, float]:
        """Smallest and largest value that it can represent."""
        return (self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    def represents(self, value: float) -> bool:
        """Whether a value is in that range."""
        low, high = self.representable_range
        return low <= value <= high


@dataclass(frozen=True)
class WeightQuantizer:
    """A quantizer with one scale for each slice of a weight along an axis. It becomes stale when its Q changes."""

    node: Node
    """Q of the pair."""
    scale: Node
    """Constant with the scales, float32 [slices]."""
    zero_point: Node
    """Constant with the zero points, int64 [slices]."""
    axis: int
    low: int
    high: int
    dtype: torch.dtype

    @property
    def source(self) -> Node:
        """Node with the float weight."""
        return operand(self.node)

    def weight_and_scale(self, graph: GraphModule) -> tuple[Tensor, Tensor]:
        """The float weight and the scales [slices]. Raises TypeError if the weight depends on the image."""
        return weight_of(graph, self.source), weight_of(graph, self.scale)

    def rounded(self, graph: GraphModule) -> Tensor:
        """The weight that the dequantizer returns, float32."""
        weight, scale = self.weight_and_scale(graph)
        rest = (scale, weight_of(graph, self.zero_point), self.axis, self.low, self.high, self.dtype)
        dequantized: Tensor = DEQUANTIZE_CHANNELS(QUANTIZE_CHANNELS(weight, *rest), *rest)
        return dequantized


def quantizer_of(node: Argument) -> Quantizer | None:
    """The quantizer that a node is the Q or the DQ of; None for any other node or a literal."""
    if not isinstance(node, Node) or node.target not in (QUANTIZE, DEQUANTIZE):
        return None
    quantize = node if node.target is QUANTIZE else operand(node)
    _, scale, zero, low, high, dtype = quantize.args
    return Quantizer(
        quantize,
        scale=literal(scale, float),
        zero_point=literal(zero, int),
        low=literal(low, int),
        high=literal(high, int),
        dtype=literal(dtype, torch.dtype),
    )


def weight_quantizer_of(node: Argument) -> WeightQuantizer | None:
    """The quantizer of a weight that a node is the Q or the DQ of; None for any other node or a literal."""
    if not isinstance(node, Node) or node.target not in (QUANTIZE_CHANNELS, DEQUANTIZE_CHANNELS):
        return None
    quantize = node if node.target is QUANTIZE_CHANNELS else operand(node)
    axis, low, high = (literal(value, int) for value in quantize.args[3:6])
    dtype = literal(quantize.args[6], torch.dtype)
    return WeightQuantizer(quantize, operand(quantize, 1), operand(quantize, 2), axis, low, high, dtype)


def quantizers(graph: GraphModule) -> Iterator[Quantizer]:
    """Yield the quantizers with one scale in the graph's order, read when it comes to each."""
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE):
        quantizer = quantizer_of(node)
        assert quantizer is not None
        yield quantizer


def set_quantized_values(graph: GraphModule) -> GraphModule:
    """Give constants, Qs and DQs their fake tensors. Returns the same graph.

    NNCF gives Qs and DQs shallow copies of their source's, with which torch can't compute.
    """
    for node in graph.graph.nodes:
        if "val" not in node.meta or node.target in QUANTIZATIONS:
            set_value(graph, node)
    return graph


def int8_weight(node: Argument) -> WeightQuantizer | None:
    """The quantizer of a convolution's or linear layer's weight, if it has a scale for each output channel.

    None for other layers and other nodes.
    """
    layer = dense_layer(node)
    if layer is None or layer.weight.target is not DEQUANTIZE_CHANNELS:
        return None
    quantizer = weight_quantizer_of(layer.weight)
    return quantizer if quantizer is not None and quantizer.axis == 0 else None


def owners_of(dequantizer: Node) -> frozenset[str]:
    """Names of the layers that a DQ serves, as `Placement` wrote them when it placed the quantizer.

    The DQ exists because at least one of them is in INT8. Raises KeyError in a graph that was read from a file.
    """
    owners: frozenset[str] = dequantizer.meta[_OWNERS]
    return owners


def set_owners(dequantizer: Node, layers: Iterable[str]) -> None:
    """Write the names of the layers that a DQ serves into its meta data."""
    dequantizer.meta[_OWNERS] = frozenset(layers)


def places_of(quantizer: Node) -> frozenset[str]:
    """The places of a Q, such as "the input of head.fc": the same in every runtime's graph of a network.

    Raises KeyError in a graph that was read from a file.
    """
    places: frozenset[str] = quantizer.meta[_PLACES]
    return places


def set_places(quantizer: Node, places: Iterable[str]) -> None:
    """Write the places of a Q into its meta data."""
    quantizer.meta[_PLACES] = frozenset(places)


def set_grid(quantizer: Quantizer, grid: Grid) -> None:
    """Give a quantizer's Q and every DQ of it another scale and range."""
    for node in (quantizer.node, *quantizer.node.users):
        node.args = (node.args[0], *grid)


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What a layer in INT8 computes with, beyond its input."""

    weight: Tensor
    """Float weight, [out,in/groups,H,W] or [out,in]; after rounding, whole multiples of the scales."""
    scale: Tensor
    """Scales of the weight, [out]."""
    bias: Tensor | None
    """Bias, [out]."""


def layer_weights(graph: GraphModule, layer: DenseLayer) -> LayerWeights | None:
    """The weights of a layer; None if they aren't in INT8 with a scale for each output channel, or not constant."""
    quantizer = int8_weight(layer.node)
    values = None if quantizer is None else constants(graph, quantizer.source, layer.bias)
    return None if quantizer is None or values is None else LayerWeights(*quantizer.weight_and_scale(graph), values[1])


def set_int8_weights(graph: GraphModule, node: Node, weight: Tensor | None = None, scale: Tensor | None = None) -> None:
    """Give the Q/DQ of a layer's weights other float weights, another scale [out], or both."""
    dequantizer = operand(node, 1)
    quantizer = operand(dequantizer)
    old = quantizer.args[:2]
    new_weight, new_scale = (
        before if value is None else add_constant(graph, quantizer, f"{node.name}.{name}", value)
        for name, value, before in (("weight", weight, old[0]), ("scale", scale, old[1]))
    )
    quantizer.args = (new_weight, new_scale, *quantizer.args[2:])
    dequantizer.args = (quantizer, new_scale, *dequantizer.args[2:])
    drop_constants(graph, [before for before in old if before not in (new_weight, new_scale)])
