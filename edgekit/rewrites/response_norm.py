"""ConvNeXt V2's global response normalization (GRN, arXiv 2301.00808) in the cheapest exact form."""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.graph import A, add_constant, constant, insert, refresh, shape_of
from edgekit.rewrites.affine import consumers, fold_input_affine


@torch.no_grad()
def fold_response_norm(graph: GraphModule) -> int:
    """``x + (b + w * (x * n))`` becomes ``x * (1 + w * n)``, b goes into the layer behind. Count of norms changed.

    One multiplication over the wide tensor is left of three operations.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        parts = _match(graph, node)
        if parts is None:
            continue
        x, n, weight, bias = parts
        below = consumers(node)
        scale = insert(
            graph, node, A.mul.Tensor, n, add_constant(graph, node, f"{node.name}.weight", weight), like=node
        )
        scale = insert(graph, node, A.add.Tensor, scale, 1.0, like=node)
        out = insert(graph, node, A.mul.Tensor, x, scale, like=node)
        if below is None:
            shift = add_constant(graph, node, f"{node.name}.bias", bias)
            out = insert(graph, node, A.add.Tensor, out, shift, like=node)
        else:
            for layer in below:
                fold_input_affine(graph, layer, None, bias.flatten())
        node.replace_all_uses_with(out)
        folded += 1
    refresh(graph)
    return folded


def _match(graph: GraphModule, node: Node) -> tuple[Node, Node, torch.Tensor, torch.Tensor] | None:
    """x, n, weight, bias of ``add(x, addcmul(bias, weight, mul(x, n)))``."""
    if node.target is not A.add.Tensor or not isinstance(node.args[1], Node):
        return None
    x, inner = node.args
    if inner.target is not A.addcmul.default or inner.kwargs or len(inner.users) != 1:
        return None
    bias, weight, product = constant(graph, inner.args[0]), constant(graph, inner.args[1]), inner.args[2]
    if bias is None or weight is None or product.target is not A.mul.Tensor or product.args[0] is not x:
        return None
    return x, product.args[1], weight, bias


@torch.no_grad()
def plain_vector_norm(graph: GraphModule) -> int:
    """``norm(x)`` over height and width becomes ``sqrt(sum(x * x))`` over them. Count of norms changed.

    Converters lower the norm to abs, power and transposes; a runtime without a fast two-axis reduction gets the sum
    over one axis of [N, H*W, C] when the channels are last.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.linalg_vector_norm.default or node.args[1] != 2 or len(node.args) < 4:
            continue
        x, _, axes, keep = node.args[:4]
        square = insert(graph, node, A.mul.Tensor, x, x, like=node)
        total = _sum(graph, node, square, x, axes, keep)
        node.replace_all_uses_with(insert(graph, node, A.sqrt.default, total, like=node))
        changed += 1
    refresh(graph)
    return changed


def _sum(graph: GraphModule, node: Node, square: Node, x: Any, axes: Any, keep: Any) -> Node:
    n, *_, c = shape_of(x)
    if len(shape_of(x)) == 4 and sorted(axes) == [1, 2] and keep:
        rows = insert(graph, node, A.reshape.default, square, [n, -1, c], like=node)
        total = insert(graph, node, A.sum.dim_IntList, rows, [1], True, like=node)
        return insert(graph, node, A.reshape.default, total, [n, 1, 1, c], like=node)
    return insert(graph, node, A.sum.dim_IntList, square, axes, keep, like=node)
