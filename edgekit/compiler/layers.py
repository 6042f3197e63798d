"""Layers of a graph: convolutions, linear layers, and products of two activations."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import constant, constants, replace_layer, set_weights
from edgekit.compiler.nodes import A, argument, layer_name, literal, operand, pair, shape_of

TRANSPOSED = {A.conv_transpose1d.default, A.conv_transpose2d.input, A.conv_transpose3d.input}
OTHER_CONVOLUTIONS = TRANSPOSED | {
    A.conv1d.default, A.conv1d.padding, A.conv2d.padding, A.conv3d.default, A.conv3d.padding
}  # fmt: skip
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
