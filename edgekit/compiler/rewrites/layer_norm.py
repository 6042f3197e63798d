"""Writes LayerNorm in the operations that a runtime computes fastest."""

import math

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import insert, inserter, replace_each, set_weights
from edgekit.compiler.layers import dense_layer, fixed_weights
from edgekit.compiler.nodes import A, argument, axes_of, integers, operand, shape_of


@torch.no_grad()
def centre_before_layer_norm(graph: GraphModule) -> int:
    """Centre the weights of each dense convolution that only a LayerNorm over its outputs reads.

    The norm subtracts the mean, so its output stays the same. Returns the number of convolutions changed.
    """
    norms = graph.graph.find_nodes(op="call_function", target=A.layer_norm.default)
    return sum(
        _is_over_last(norm) and len(operand(norm).users) == 1 and _centre(graph, operand(norm)) for norm in norms
    )


def _is_over_last(norm: Node) -> bool:
    """Whether a LayerNorm is over the last axis alone."""
    return len(integers(norm.args[1])) == 1


@torch.no_grad()
def plain_layer_norm(graph: GraphModule) -> int:
    """Decompose LayerNorm over the last axis into means, a square and one reciprocal square root.

    Returns the number of norms changed.
    """
    return _decompose(graph, apart=False)


@torch.no_grad()
def half_precision_layer_norm(graph: GraphModule) -> int:
    """Decompose LayerNorm like `plain-layer-norm`, with a reshape between the square and its mean.

    XNNPACK would fuse the two into a kernel that it doesn't have in f16, and on Arm everything up to the next quantizer
    would fall back to f32. Returns the number of norms changed.
    """
    return _decompose(graph, apart=True)


@torch.no_grad()
def rows_layer_norm(graph: GraphModule) -> int:
    """Compute LayerNorm over the channels of [N,H,W,C] on rows [N,H*W,C], the form that OpenVINO has one kernel for.

    After a dense convolution that nothing else reads, the mean is zero once the convolution's weights are centred over
    its outputs, so a root mean square replaces the norm. Returns the number of norms changed.
    """

    def on_rows(norm: Node) -> Node | None:
        if not _is_over_last(norm) or len(shape_of(norm)) != 4:
            return None
        images, height, width, channels = shape_of(norm)
        value, call = operand(norm), inserter(graph, norm)
        alone = len(value.users) == 1
        rows = call(A.reshape.default, value, [images, height * width, channels])
        if alone and _centre(graph, value):
            square = call(A.mul.Tensor, rows, rows)
            variance = call(A.mean.dim, square, [-1], True)
            root = call(A.rsqrt.default, call(A.add.Tensor, variance, argument(norm, 4, 1e-5)))
            out = _affine(graph, norm, call(A.mul.Tensor, rows, root))
        else:
            out = call(A.layer_norm.default, rows, *norm.args[1:])
        return call(A.reshape.default, out, [images, height, width, channels])

    return replace_each(graph, {A.layer_norm.default}, on_rows)


def _centre(graph: GraphModule, value: Node) -> bool:
    """If `value` has the channels of a dense convolution's output last, which nothing else reads, centre its weights.

    Returns whether it does.
    """
    layer = dense_layer(operand(value)) if value.target is A.permute.default else None
    if layer is None or not layer.is_conv or layer.groups != 1 or len(layer.node.users) != 1:
        return False
    weights = fixed_weights(graph, layer)
    if weights is None or axes_of(value)[-1] != layer.channel_axis:
        return False
    weight, bias = weights
    set_weights(graph, layer.node, weight - weight.mean(0, keepdim=True), None if bias is None else bias - bias.mean())
    return True


def _affine(graph: GraphModule, node: Node, value: Node) -> Node:
    """Apply the weight and bias of the LayerNorm `node` to a normalized value."""
    for position, target in ((2, A.mul.Tensor), (3, A.add.Tensor)):
        part = argument(node, position)
        if part is not None:
            value = insert(graph, node, target, value, part, like=node)
    return value


def _decompose(graph: GraphModule, apart: bool) -> int:
    def decomposed(norm: Node) -> Node | None:
        if not _is_over_last(norm):
            return None
        x, call = norm.args[0], inserter(graph, norm)
        *outer, channels = shape_of(x)
        centred = call(A.sub.Tensor, x, call(A.mean.dim, x, [-1], True))
        square = call(A.mul.Tensor, centred, centred)
        if apart:
            square = call(A.reshape.default, square, [1, math.prod(outer), channels])
        variance = call(A.mean.dim, square, [-1], True)
        if apart:
            variance = call(A.reshape.default, variance, [*outer, 1])
        root = call(A.rsqrt.default, call(A.add.Tensor, variance, argument(norm, 4, 1e-5)))
        return _affine(graph, norm, call(A.mul.Tensor, centred, root))

    return replace_each(graph, {A.layer_norm.default}, decomposed)
