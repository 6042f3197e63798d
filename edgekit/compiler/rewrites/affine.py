"""Folds scales and shifts into dense layers: the affine part of a LayerNorm, and layer scale."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import constant, constants, replace_each
from edgekit.compiler.layers import DenseLayer, dense_layer, fixed_weights, scale_input, scale_output
from edgekit.compiler.nodes import A, argument, axes_of, integers, node_of, operand, shape_of


def dense_consumers(graph: GraphModule, node: Node, axis: int) -> list[DenseLayer] | None:
    """The dense layers whose input channels are on this axis of `node`, looking through permutes.

    None if it has any other consumer, such as a convolution with padding, whose border would see the shift, or a layer
    whose weights depend on the image.
    """
    consumers: list[DenseLayer] = []
    rank = len(shape_of(node))
    for user in node.users:
        layer = dense_layer(user)
        if user.target is A.permute.default:
            below = dense_consumers(graph, user, axes_of(user).index(axis % rank))
            if below is None:
                return None
            consumers += below
        elif layer is not None and layer.source is node and layer.channel_axis % rank == axis % rank:
            if not _shifts_evenly(layer) or fixed_weights(graph, layer) is None:
                return None
            consumers.append(layer)
        else:
            return None
    return consumers or None


def _shifts_evenly(layer: DenseLayer) -> bool:
    """Whether a shift of a layer's input shifts each output channel by the same amount everywhere."""
    return layer.padding == (0, 0) and layer.groups == 1


@torch.no_grad()
def fold_layer_norm_affine(graph: GraphModule) -> int:
    """Fold LayerNorm's weight and bias into the dense layers after it.

    Returns the number of norms changed.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.layer_norm.default):
        affine = constants(graph, argument(node, 2), argument(node, 3))
        below = dense_consumers(graph, node, -1) if len(integers(node.args[1])) == 1 else None
        if below is None or affine is None or all(part is None for part in affine):
            continue
        for layer in below:
            scale_input(graph, layer, *affine)
        node.args = (node.args[0], node.args[1], None, None, *node.args[4:])
        folded += 1
    return folded


@torch.no_grad()
def fold_layer_scale(graph: GraphModule) -> int:
    """Fold a constant factor per channel into the dense layer before it (layer scale of ConvNeXt and ViT).

    Returns the number of factors folded.
    """

    def scaled(product: Node) -> Node | None:
        for value, factor in (product.args, product.args[::-1]):
            gamma = constant(graph, factor) if isinstance(factor, Node) else None
            layer = None if gamma is None else _scaled_layer(value, gamma)
            if gamma is not None and layer is not None and scale_output(graph, layer, gamma.flatten()):
                return node_of(value)
        return None

    return replace_each(graph, {A.mul.Tensor}, scaled)


def _scaled_layer(value: Argument, gamma: Tensor) -> DenseLayer | None:
    """The dense layer that `gamma` scales per channel, at most one permute away; None if it has other consumers."""
    if not isinstance(value, Node) or len(value.users) != 1:
        return None
    permuted = value.target is A.permute.default
    layer = dense_layer(operand(value) if permuted else value)
    if layer is None or len(layer.node.users) != 1:
        return None
    rank = len(shape_of(value))
    axis = layer.channel_axis % rank
    if permuted:
        axis = axes_of(value).index(axis)
    shape = [1] * rank
    shape[axis] = shape_of(value)[axis]
    broadcast = [1] * (rank - gamma.ndim) + list(gamma.shape)
    return layer if broadcast == shape else None
