"""Converts layers on [N,H,W,C] to channels first, for runtimes that only have kernels for [N,C,H,W].

OpenVINO stores the channels last in memory anyway, but only for operations whose shape is channels first. There, each
permute to [N,H,W,C] or back copies the tensor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import (
    A,
    Operation,
    add_constant,
    argument,
    constants,
    insert,
    insert_layer,
    integers,
    refresh,
    replace_layer,
    shape_of,
)
from edgekit.compiler.layers import dense_layers, fixed_weights
from edgekit.compiler.rewrites.layout import TO_FIRST, TO_LAST, sink_permutes


@torch.no_grad()
def channels_first(graph: GraphModule) -> int:
    """Replace each Linear on [N,H,W,C] by a pointwise convolution on [N,C,H,W].

    Returns the number of layers replaced.
    """
    converted = 0
    for layer in dense_layers(graph):
        node = layer.node
        weights = None if layer.is_conv else fixed_weights(graph, layer)
        if weights is None or len(shape_of(node)) != 4:
            continue
        inner = insert(graph, node, A.permute.default, layer.source, TO_FIRST, like=node)
        kernel = weights.weight[:, :, None, None]
        conv = insert_layer(graph, node, A.conv2d.default, inner, kernel, weights.bias)
        replace_layer(graph, node, insert(graph, node, A.permute.default, conv, TO_LAST, like=node))
        converted += 1
    refresh(graph)
    sink_permutes(graph, TO_LAST)
    return converted


@torch.no_grad()
def channels_first_layer_norm(graph: GraphModule) -> int:
    """Decompose LayerNorm over the channels of [N,H,W,C] into operations on [N,C,H,W].

    Both reductions read the original tensor, so that centring, scaling and the operations after them need only one more
    pass. The variance is therefore the mean square minus the square of the mean. In float32 this loses precision by the
    factor by which the squared mean exceeds the variance: a digit or two after a depthwise convolution.

    Returns the number of norms changed.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.layer_norm.default or len(integers(node.args[1])) != 1 or len(shape_of(node)) != 4:
            continue
        affine = constants(graph, argument(node, 2), argument(node, 3))
        if affine is None:
            continue
        node.replace_all_uses_with(_decompose(graph, node, affine))
        changed += 1
    refresh(graph)
    sink_permutes(graph, TO_LAST)
    return changed


def _decompose(graph: GraphModule, node: Node, affine: Sequence[Tensor | None]) -> Node:
    """Insert the operations that replace the LayerNorm `node` with this weight and bias; returns the last of them."""

    def call(target: Operation, *args: Argument) -> Node:
        return insert(graph, node, target, *args, like=node)

    channels, eps = shape_of(node)[-1], argument(node, 4, 1e-5)
    x = call(A.permute.default, node.args[0], TO_FIRST)
    # OpenVINO's kernels for a sum and a vector norm are faster than those for a mean and a mean square.
    mean = call(A.mul.Tensor, call(A.sum.dim_IntList, x, [1], True), 1 / channels)
    length = call(A.linalg_vector_norm.default, x, 2, [1], True)
    squares = [call(A.mul.Tensor, value, value) for value in (length, mean)]
    variance = call(A.sub.Tensor, call(A.mul.Tensor, squares[0], 1 / channels), squares[1])
    variance = call(A.add.Tensor, call(A.relu.default, variance), eps)  # rounding must not make it negative
    out = call(A.mul.Tensor, call(A.sub.Tensor, x, mean), call(A.rsqrt.default, variance))
    for part, target in zip(affine, (A.mul.Tensor, A.add.Tensor), strict=True):
        if part is not None:
            out = call(target, out, add_constant(graph, node, f"{node.name}.affine", part[:, None, None]))
    return call(A.permute.default, out, TO_LAST)
