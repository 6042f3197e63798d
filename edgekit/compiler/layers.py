"""Layers of a graph: convolutions, linear layers and products of two activations; and the quantizers around them.

A quantizer is a pair of a quantize and a dequantize node (Q/DQ) between a value and its users.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import (
    A,
    Q,
    add_constant,
    argument,
    constant,
    constants,
    drop_constants,
    layer_name,
    literal,
    operand,
    pair,
    replace_layer,
    set_value,
    set_weights,
    shape_of,
    weight_of,
)

TRANSPOSED = {A.conv_transpose1d.default, A.conv_transpose2d.input, A.conv_transpose3d.input}
OTHER_CONVOLUTIONS = TRANSPOSED | {
    A.conv1d.default,
    A.conv1d.padding,
    A.conv2d.padding,
    A.conv3d.default,
    A.conv3d.padding,
}
"""Convolutions that are never quantized."""

Kind: TypeAlias = Literal["conv", "depthwise", "linear", "matmul"]


@dataclass(frozen=True)
class Layer:
    """An operation that multiplies and accumulates, and can therefore run in integer kernels."""

    name: str
    op: Kind
    macs: int


@dataclass(frozen=True)
class DenseLayer:
    """A convolution or linear layer, as its node describes it. It becomes stale when the node changes."""

    node: Node
    name: str
    """Dotted path of its module, as in the network's state dict."""
    source: Node
    """Node whose value the layer reads."""
    weight: Node
    """Node with the weight, [out,in/groups,H,W] or [out,in]. In a Q/DQ graph, it may be a DQ."""
    bias: Node | None
    """Node with the bias, [out]."""
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    """Zeros on each side of the height and of the width."""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution on [N,C,H,W]; otherwise it is a linear layer on [...,C]."""
        return self.node.target is A.conv2d.default

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of a convolution's kernel; empty for a linear layer."""
        return shape_of(self.weight)[2:]

    @property
    def inputs(self) -> int:
        """Number of inputs that meet the weights of each output."""
        return math.prod(shape_of(self.weight)[1:])

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel reads one input channel, of several."""
        return self.groups > 1 and shape_of(self.weight)[1] == 1

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in its input and output: 1, or -1 for a linear layer."""
        return 1 if self.is_conv else -1


class FixedWeights(NamedTuple):
    """The weights of a layer, which are the same for every image."""

    weight: Tensor
    """[out,in/groups,H,W] or [out,in]."""
    bias: Tensor | None
    """[out]; None if the layer adds none."""


def fixed_weights(graph: GraphModule, layer: DenseLayer) -> FixedWeights | None:
    """The weights of a layer; None if its weight or its bias depends on the image."""
    values = constants(graph, layer.weight, layer.bias)
    weight, bias = values or (None, None)
    return None if weight is None else FixedWeights(weight, bias)


@torch.no_grad()
def scale_output(graph: GraphModule, layer: DenseLayer, factor: Tensor, shift: Tensor | None = None) -> bool:
    """Multiply each channel of a layer's output by a factor [out] and add a shift [out], by changing its weights.

    Returns False, and changes nothing, if they depend on the image.
    """
    if (weights := fixed_weights(graph, layer)) is None:
        return False
    weight, bias = weights
    moved = None if bias is None else bias.double() * factor
    if shift is not None:
        moved = shift.double() if moved is None else moved + shift
    scaled = weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
    set_weights(graph, layer.node, scaled.float(), None if moved is None else moved.float())
    return True


@torch.no_grad()
def scale_input(graph: GraphModule, layer: DenseLayer, factor: Tensor | None, shift: Tensor | None) -> bool:
    """Change a layer's weights so that its output for x is its former output for x * factor + shift, both [in].

    The layer must not pad its input or have groups. Returns False, and changes nothing, if its weights depend on the
    image.
    """
    if (weights := fixed_weights(graph, layer)) is None:
        return False
    weight, bias = weights
    exact, channels = weight.double(), (1, -1, *[1] * (weight.ndim - 2))
    if shift is not None:
        moved = (exact * shift.double().view(channels)).flatten(1).sum(1)
        bias = (moved if bias is None else bias.double() + moved).float()
    if factor is not None:
        exact = exact * factor.double().view(channels)
    set_weights(graph, layer.node, exact.float(), bias)
    return True


def dense_layer(node: Argument) -> DenseLayer | None:
    """The convolution or linear layer that a node computes, or None for any other node or a literal."""
    if not isinstance(node, Node) or node.target not in (A.conv2d.default, A.linear.default):
        return None
    bias = argument(node, 2)
    operands = (layer_name(node), operand(node), operand(node, 1), bias if isinstance(bias, Node) else None)
    if node.target is A.linear.default:
        return DenseLayer(node, *operands)
    stride, padding, dilation = (
        pair(argument(node, position, default)) for position, default in ((3, 1), (4, 0), (5, 1))
    )
    return DenseLayer(node, *operands, stride, padding, dilation, literal(argument(node, 6, 1), int))


def dense_layers(graph: GraphModule) -> Iterator[DenseLayer]:
    """Yield the convolutions and linear layers in the graph's order, read when it comes to each.

    The graph may be changed meanwhile: layers that are added are not visited.
    """
    for node in list(graph.graph.nodes):
        layer = dense_layer(node)
        if layer is not None:
            yield layer


def replace_layers(graph: GraphModule, new: Callable[[DenseLayer, FixedWeights], Node | None]) -> int:
    """Replace each layer with constant weights by the node that `new` inserts, or leave it if that returns None.

    Weights that nothing else uses are deleted with their layer. Returns the number of layers replaced.
    """
    replaced = 0
    for layer in dense_layers(graph):
        weights = fixed_weights(graph, layer)
        replacement = None if weights is None else new(layer, weights)
        if replacement is not None:
            replace_layer(graph, layer.node, replacement)
            replaced += 1
    return replaced


def axes_but(axis: int, axes: int) -> list[int]:
    """All of a number of axes except one, which may be negative: those over which a channel's values are reduced."""
    return [other for other in range(axes) if other != axis % axes]


def distinct_names(graph: GraphModule) -> dict[Node, str]:
    """A name for each dense layer that no other has: a module's second layer is called "name (2)".

    It is the same in the graphs of all runtimes, because rewrites keep the order of layers.
    """
    seen: Counter[str] = Counter()
    names = {}
    for layer in dense_layers(graph):
        seen[layer.name] += 1
        names[layer.node] = layer.name if seen[layer.name] == 1 else f"{layer.name} ({seen[layer.name]})"
    return names


def layers(graph: GraphModule) -> Iterator[tuple[Node, Layer]]:
    """Yield every multiply-accumulate operation of a float graph, with its MACs at batch 1."""
    for node in graph.graph.nodes:
        dense = dense_layer(node)
        if dense is not None and dense.is_conv:
            macs = math.prod(shape_of(node)) * math.prod(shape_of(dense.weight)[1:])
            yield node, Layer(dense.name, "depthwise" if dense.is_depthwise else "conv", macs)
        elif dense is not None:
            yield node, Layer(dense.name, "linear", math.prod(shape_of(node)) * shape_of(dense.source)[-1])
        elif node.target in (A.matmul.default, A.bmm.default) and not _is_sum(graph, node):
            yield node, Layer(layer_name(node), "matmul", math.prod(shape_of(node)) * shape_of(node.args[0])[-1])
        elif node.target is A.scaled_dot_product_attention.default:
            query, key = shape_of(node.args[0]), shape_of(node.args[1])
            yield node, Layer(layer_name(node), "matmul", 2 * math.prod(query) * key[-2])
        elif node.target in (A.baddbmm.default, A.addmm.default):
            yield node, Layer(layer_name(node), "matmul", math.prod(shape_of(node)) * shape_of(node.args[1])[-1])
        elif node.target in OTHER_CONVOLUTIONS:  # the weights of a transposed one are [in,out/groups,...]
            values = shape_of(node.args[0]) if node.target in TRANSPOSED else shape_of(node)
            yield node, Layer(layer_name(node), "conv", math.prod(values) * math.prod(shape_of(node.args[1])[1:]))


def _is_sum(graph: GraphModule, product: Node) -> bool:
    """Whether a product's first operand consists of ones, by which `vector-norm-matmul` sums."""
    left = constant(graph, operand(product))
    return left is not None and bool((left == 1).all())


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

    def dequantized(self, values: Tensor) -> Tensor:
        """What Q and DQ make of values, in a third of their time."""
        low, high = self.low - self.zero_point, self.high - self.zero_point
        return (values * (1.0 / self.scale)).round_().clamp_(low, high).mul_(self.scale)

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
