"""Channels first: what a runtime with kernels for [N,C,H,W] alone makes of layers written for [N,H,W,C].

OpenVINO keeps the channels last in memory anyway, but only for operations whose shape says channels first. A permute to
[N,H,W,C] is a copy there, and so is the one back.
"""

from typing import Any

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    constant,
    insert,
    refresh,
    replace_layer,
    set_weights,
    shape_of,
)
from edgekit.compiler.rewrites.layout import TO_FIRST, TO_LAST, sink_permutes


@torch.no_grad()
def channels_first(graph: GraphModule) -> int:
    """Each Linear on [N,H,W,C] becomes a pointwise convolution on [N,C,H,W]. Count of those."""
    converted = 0
    for node in list(graph.graph.nodes):
        weight = constant(graph, argument(node, 1, None)) if node.target is A.linear.default else None
        if weight is None or len(shape_of(node)) != 4:
            continue
        inner = insert(graph, node, A.permute.default, node.args[0], TO_FIRST, like=node)
        conv = insert(graph, node, A.conv2d.default, inner, node.args[1], argument(node, 2, None), like=node)
        set_weights(graph, conv, weight[:, :, None, None], constant(graph, argument(node, 2, None)))
        replace_layer(graph, node, insert(graph, node, A.permute.default, conv, TO_LAST, like=node))
        converted += 1
    refresh(graph)
    sink_permutes(graph, TO_LAST)
    return converted


@torch.no_grad()
def channels_first_layer_norm(graph: GraphModule) -> int:
    """LayerNorm over the channels of [N,H,W,C] is spelled out on [N,C,H,W]. Count of norms changed.

    Both reductions read the tensor as it comes, so that centring, scaling and what follows are one pass more: the
    variance is the mean square less the square of the mean. In float32 that loses what the mean's square is larger than
    the variance by, a digit or two behind a depthwise convolution.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.layer_norm.default or len(node.args[1]) != 1 or len(shape_of(node)) != 4:
            continue
        node.replace_all_uses_with(_spelled_out(graph, node))
        changed += 1
    refresh(graph)
    sink_permutes(graph, TO_LAST)
    return changed


def _spelled_out(graph: GraphModule, node: Any) -> Any:
    """The node that gives what the LayerNorm `node` gives."""

    def call(target: Any, *args: Any) -> Any:
        return insert(graph, node, target, *args, like=node)

    channels, eps = shape_of(node)[-1], argument(node, 4, 1e-5)
    x = call(A.permute.default, node.args[0], TO_FIRST)
    # A sum and a length: OpenVINO's kernels of these are faster than those of a mean and of a mean square.
    mean = call(A.mul.Tensor, call(A.sum.dim_IntList, x, [1], True), 1 / channels)
    length = call(A.linalg_vector_norm.default, x, 2, [1], True)
    squares = [call(A.mul.Tensor, each, each) for each in (length, mean)]
    variance = call(A.sub.Tensor, call(A.mul.Tensor, squares[0], 1 / channels), squares[1])
    variance = call(A.add.Tensor, call(A.relu.default, variance), eps)  # rounding must not make it negative
    out = call(A.mul.Tensor, call(A.sub.Tensor, x, mean), call(A.rsqrt.default, variance))
    for position, target in ((2, A.mul.Tensor), (3, A.add.Tensor)):
        affine = constant(graph, argument(node, position, None))
        if affine is not None:
            out = call(target, out, add_constant(graph, node, f"{node.name}.{position}", affine[:, None, None]))
    return call(A.permute.default, out, TO_LAST)
