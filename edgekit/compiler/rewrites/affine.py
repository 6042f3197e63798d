"""Folds scales and shifts into dense layers: the affine part of a LayerNorm, and layer scale."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import A, argument, constant, integers, operand, refresh, set_weights, shape_of, weight_of
from edgekit.compiler.layers import DenseLayer, dense_layer


def dense_consumers(node: Node) -> list[DenseLayer] | None:
    """The dense layers that consume `node`, looking through permutes, or None if it has any other consumer.

    A convolution with padding counts as another consumer, because its border would see the shift.
    """
    consumers: list[DenseLayer] = []
    for user in node.users:
        layer = dense_layer(user)
        if user.target is A.permute.default:
            below = dense_consumers(user)
            if below is None:
                return None
            consumers += below
        elif layer is not None and layer.source is node and layer.weight is not node and _shifts_evenly(layer):
            consumers.append(layer)
        else:
            return None
    return consumers or None


def _shifts_evenly(layer: DenseLayer) -> bool:
    """Whether a shift of a layer's input shifts each output channel by the same amount everywhere."""
    return layer.padding == (0, 0) and layer.groups == 1


def fold_input_affine(graph: GraphModule, layer: DenseLayer, scale: Tensor | None, shift: Tensor | None) -> None:
    """Change `layer` so that its output for x is its former output for x * scale + shift, per input channel."""
    weight, bias = weight_of(graph, layer.weight), constant(graph, layer.bias)
    exact = weight.double()
    if shift is not None:
        taps = shift.double().view(1, -1, *[1] * (weight.ndim - 2))
        moved = (exact * taps).flatten(1).sum(1)
        bias = (moved if bias is None else bias.double() + moved).float()
    if scale is not None:
        exact = exact * scale.double().view(1, -1, *[1] * (weight.ndim - 2))
    set_weights(graph, layer.node, exact.float(), bias)


@torch.no_grad()
def fold_layer_norm_affine(graph: GraphModule) -> int:
    """Fold LayerNorm's weight and bias into the dense layers after it.

    Returns the number of norms changed.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.layer_norm.default or len(integers(node.args[1])) != 1:
            continue
        weight, bias = constant(graph, argument(node, 2)), constant(graph, argument(node, 3))
        below = dense_consumers(node)
        if below is None or (weight is None and bias is None):
            continue
        for layer in below:
            fold_input_affine(graph, layer, weight, bias)
        node.args = (node.args[0], node.args[1], None, None, *node.args[4:])
        folded += 1
    refresh(graph)
    return folded


@torch.no_grad()
def fold_layer_scale(graph: GraphModule) -> int:
    """Fold a constant factor per channel into the dense layer before it (layer scale of ConvNeXt and ViT).

    Returns the number of factors folded.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.mul.Tensor:
            continue
        for value, factor in (node.args, node.args[::-1]):
            gamma = constant(graph, factor)
            layer = _scaled_layer(value, gamma) if gamma is not None else None
            weight = constant(graph, layer.weight) if layer is not None else None
            if gamma is None or layer is None or weight is None:
                continue
            bias = constant(graph, layer.bias)
            scaled = weight * gamma.reshape(-1, *[1] * (weight.ndim - 1))
            set_weights(graph, layer.node, scaled, None if bias is None else bias * gamma.flatten())
            node.replace_all_uses_with(value)
            folded += 1
            break
    refresh(graph)
    return folded


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
        axis = integers(value.args[1]).index(axis)
    shape = [1] * rank
    shape[axis] = shape_of(value)[axis]
    broadcast = [1] * (rank - gamma.ndim) + list(gamma.shape)
    return layer if broadcast == shape else None
