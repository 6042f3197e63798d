"""Gives dense layers constant biases, with which integer kernels compute."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import A, add_constant, constant, drop_constants, insert, shape_of
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers, fixed_weights


@torch.no_grad()
def separate_biases(graph: GraphModule) -> int:
    """Add each bias that depends on the image after its layer instead. Returns the number of biases separated."""
    separated = 0
    for layer in dense_layers(graph):
        node, bias = layer.node, layer.bias
        if bias is None or constant(graph, bias) is not None:
            continue
        after = node.next
        each = insert(graph, after, A.reshape.default, bias, [-1, 1, 1], like=node) if layer.is_conv else bias
        total = insert(graph, after, A.add.Tensor, node, each, like=node)
        node.replace_all_uses_with(total)
        total.args = (node, each)
        node.args = (*node.args[:2], None, *node.args[3:])
        separated += 1
    return separated


@torch.no_grad()
def fold_biases(graph: GraphModule) -> int:
    """Fold each constant per channel that is added to a layer's only use into its bias, as files of Paddle need it.

    Returns the number of sums folded.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.add.Tensor):
        if node.kwargs:
            continue
        for value, added in (node.args, node.args[::-1]):
            layer = dense_layer(value)
            weights = fixed_weights(graph, layer) if layer is not None else None
            if layer is None or weights is None or len(layer.node.users) != 1:
                continue
            shift = _per_channel(graph, layer, added)
            if shift is None:
                continue
            total = shift if weights.bias is None else weights.bias + shift
            bias = add_constant(graph, layer.node, f"{layer.name}.bias", total)
            before, layer.node.args = layer.node.args, (*layer.node.args[:2], bias, *layer.node.args[3:])
            drop_constants(graph, before[2:3])
            node.replace_all_uses_with(layer.node)
            folded += 1
            break
    return folded


def _per_channel(graph: GraphModule, layer: DenseLayer, added: Argument) -> Tensor | None:
    """A constant [C] for each output channel of a layer, if it broadcasts so; None for other values."""
    value = constant(graph, added) if isinstance(added, Node) else None
    if value is None:
        return None
    shape = [1] * len(shape_of(layer.node))
    shape[layer.channel_axis] = shape_of(layer.node)[layer.channel_axis]
    return value.flatten() if [1] * (len(shape) - value.ndim) + list(value.shape) == shape else None
