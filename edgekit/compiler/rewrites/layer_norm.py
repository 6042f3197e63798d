"""Decomposes LayerNorm, for runtimes whose converter turns it into more operations than necessary."""

import math
from typing import Any

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import A, argument, insert, refresh, shape_of


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


def _decompose(graph: GraphModule, apart: bool) -> int:
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.layer_norm.default or len(node.args[1]) != 1:
            continue
        _replace(graph, node, apart)
        changed += 1
    refresh(graph)
    return changed


def _replace(graph: GraphModule, node: Any, apart: bool) -> None:
    def call(target: Any, *args: Any) -> Any:
        return insert(graph, node, target, *args, like=node)

    x, weight, bias = node.args[0], argument(node, 2, None), argument(node, 3, None)
    *outer, channels = shape_of(x)
    centred = call(A.sub.Tensor, x, call(A.mean.dim, x, [-1], True))
    square = call(A.mul.Tensor, centred, centred)
    if apart:
        square = call(A.reshape.default, square, [1, math.prod(outer), channels])
    variance = call(A.mean.dim, square, [-1], True)
    if apart:
        variance = call(A.reshape.default, variance, [*outer, 1])
    out = call(A.mul.Tensor, centred, call(A.rsqrt.default, call(A.add.Tensor, variance, argument(node, 4, 1e-5))))
    if weight is not None:
        out = call(A.mul.Tensor, out, weight)
    if bias is not None:
        out = call(A.add.Tensor, out, bias)
    node.replace_all_uses_with(out)
