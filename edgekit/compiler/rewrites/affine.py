"""Folds scales and shifts into dense layers: the affine part of a LayerNorm, and layer scale."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, argument, constant, pair, refresh, set_weights, shape_of

DENSE = (A.conv2d.default, A.linear.default)


def dense_consumers(node: Node) -> list[Node] | None:
    """The dense layers that consume `node`, looking through permutes, or None if it has any other consumer.

    A convolution with padding counts as another consumer, because its border would see the shift.
    """
    consumers: list[Node] = []
    for user in node.users:
        if user.target is A.permute.default:
            below = dense_consumers(user)
            if below is None:
                return None
            consumers += below
        elif user.target in DENSE and user.args[0] is node and user.args[1] is not node:
            padded = user.target is A.conv2d.default and pair(argument(user, 4, 0)) != (0, 0)
            if padded or argument(user, 6, 1) != 1:
                return None
            consumers.append(user)
        else:
            return None
    return consumers or None


def fold_input_affine(graph: GraphModule, layer: Node, scale: Tensor | None, shift: Tensor | None) -> None:
    """Change `layer` so that its output for x is its former output for x * scale + shift, per input channel."""
    weight, bias = constant(graph, layer.args[1]), constant(graph, argument(layer, 2, None))
    assert weight is not None
    exact = weight.double()
    if shift is not None:
        taps = shift.double().view(1, -1, *[1] * (weight.ndim - 2))
        moved = (exact * taps).flatten(1).sum(1)
        bias = (moved if bias is None else bias.double() + moved).float()
    if scale is not None:
        exact = exact * scale.double().view(1, -1, *[1] * (weight.ndim - 2))
    set_weights(graph, layer, exact.float(), bias)


@torch.no_grad()
def fold_layer_norm_affine(graph: GraphModule) -> int:
    """Fold LayerNorm's weight and bias into the dense layers behind it.

    Returns the number of norms changed.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.layer_norm.default or len(node.args[1]) != 1:
            continue
        weight, bias = constant(graph, argument(node, 2, None)), constant(graph, argument(node, 3, None))
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
            weight = constant(graph, layer.args[1]) if layer is not None else None
            if gamma is None or layer is None or weight is None:
                continue
            bias = constant(graph, argument(layer, 2, None))
            scaled = weight * gamma.reshape(-1, *[1] * (weight.ndim - 1))
            set_weights(graph, layer, scaled, None if bias is None else bias * gamma.flatten())
            node.replace_all_uses_with(value)
            folded += 1
            break
    refresh(graph)
    return folded


def _scaled_layer(value: Any, gamma: Tensor) -> Any:
    """The dense layer that `gamma` scales per channel, at most one permute away; None if it has other consumers."""
    if not isinstance(value, Node) or len(value.users) != 1:
        return None
    rank = len(shape_of(value)) if value.op == "call_function" else 0
    layer: Any = value
    axis = 1 if value.target is A.conv2d.default else rank - 1
    if value.target is A.permute.default:
        layer, order = cast(tuple[Any, Any], value.args[:2])
        axis = list(order).index(1 if layer.target is A.conv2d.default else rank - 1)
    if layer.target not in DENSE or len(layer.users) != 1:
        return None
    shape = [1] * rank
    shape[axis] = shape_of(value)[axis]
    broadcast = [1] * (rank - gamma.ndim) + list(gamma.shape)
    return layer if broadcast == shape else None
