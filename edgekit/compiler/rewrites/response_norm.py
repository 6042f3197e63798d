"""ConvNeXt V2's global response normalization (GRN, arXiv 2301.00808) in the cheapest exact form."""

import math
from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, add_constant, argument, constants, insert, integers, operand, refresh, shape_of
from edgekit.compiler.rewrites.affine import dense_consumers, fold_input_affine


@torch.no_grad()
def fold_response_norm(graph: GraphModule) -> int:
    """Replace ``x + (b + w * (x * n))`` by ``x * (1 + w * n)``, and fold b into the next layer.

    Only one of three operations over the wide tensor remains.

    Returns the number of norms changed.
    """
    folded = 0
    for node in list(graph.graph.nodes):
        parts = _match(graph, node)
        if parts is None:
            continue
        x, n, weight, bias = parts
        below = dense_consumers(graph, node, axis) if (axis := channel_axis(bias, node)) is not None else None
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
    """x, n, weight and bias of ``add(x, addcmul(bias, weight, mul(x, n)))``; None for other nodes."""
    if node.target is not A.add.Tensor or node.kwargs:
        return None
    x, inner = node.args
    if not isinstance(x, Node) or not isinstance(inner, Node):
        return None
    if inner.target is not A.addcmul.default or inner.kwargs or len(inner.users) != 1:
        return None
    bias, weight = constants(graph, *inner.args[:2]) or (None, None)
    product = operand(inner, 2)
    if bias is None or weight is None or product.target is not A.mul.Tensor or product.args[0] is not x:
        return None
    n = product.args[1]
    return (x, n, weight, bias) if isinstance(n, Node) and shape_of(node) == shape_of(x) else None


def channel_axis(value: torch.Tensor, node: Node) -> int | None:
    """The only axis of `node` along which a value that is broadcast to it has several elements; None without one."""
    wide = [axis - value.ndim for axis, size in enumerate(value.shape) if size > 1]
    shape = shape_of(node)
    fits = len(wide) == 1 and value.ndim <= len(shape) and value.numel() == shape[wide[0]]
    return wide[0] + len(shape) if fits else None


@torch.no_grad()
def vector_norm_sum(graph: GraphModule) -> int:
    """Replace ``norm(x)`` over height and width by ``sqrt(mean(x * x)) * sqrt(H*W)``.

    Converters lower the norm to abs, power and transposes. With channels last, the sum runs over one axis of
    [N, H*W, C], because runtimes have slow kernels for two axes, and OpenVINO on Arm sometimes fails on them.

    Returns the number of norms changed.
    """
    return _vector_norm(graph, _by_mean_of_rows)


@torch.no_grad()
def vector_norm_mean(graph: GraphModule) -> int:
    """Replace ``norm(x)`` like `vector-norm-sum`, with the mean over both axes right after the square.

    XNNPACK fuses the two, which is faster on x86 but leaves f16 on Arm. Returns the number of norms changed.
    """
    return _vector_norm(graph, _by_mean)


@torch.no_grad()
def vector_norm_matmul(graph: GraphModule) -> int:
    """Replace ``norm(x)`` like `vector-norm-sum`, with the sum as a matrix product with ones.

    This is for runtimes whose reductions are slower than their GEMM. Returns the number of norms changed.
    """
    return _vector_norm(graph, _by_matmul)


def _vector_norm(graph: GraphModule, length_of: Callable[[GraphModule, Node, Node], Node]) -> int:
    """Replace each norm. `length_of` computes the one over axes 1 and 2, which it keeps, from the squares."""
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.linalg_vector_norm.default or node.args[1:2] != (2,) or node.kwargs:
            continue
        x, over, keep = operand(node), argument(node, 2), argument(node, 3, False)
        axes = [axis % len(shape_of(x)) for axis in integers(over or [])]
        if not axes:
            continue  # the norm of all values
        square = insert(graph, node, A.mul.Tensor, x, x, like=node)
        if len(shape_of(x)) == 4 and sorted(axes) == [1, 2] and keep:
            length = length_of(graph, node, square)
        else:
            mean = insert(graph, node, A.mean.dim, square, axes, keep, like=node)
            length = _root(graph, node, mean, math.prod(shape_of(x)[axis] for axis in axes))
        node.replace_all_uses_with(length)
        changed += 1
    refresh(graph)
    return changed


def _root(graph: GraphModule, node: Node, mean: Node, count: int) -> Node:
    """The square root of a sum of `count` values with this mean."""
    root = insert(graph, node, A.sqrt.default, mean, like=node)
    return insert(graph, node, A.mul.Tensor, root, math.sqrt(count), like=node)


def _by_mean(graph: GraphModule, node: Node, square: Node) -> Node:
    _, height, width, _ = shape_of(square)
    return _root(graph, node, insert(graph, node, A.mean.dim, square, [1, 2], True, like=node), height * width)


def _by_mean_of_rows(graph: GraphModule, node: Node, square: Node) -> Node:
    n, height, width, channels = shape_of(square)
    rows = insert(graph, node, A.reshape.default, square, [n, height * width, channels], like=node)
    mean = insert(graph, node, A.mean.dim, rows, [1], True, like=node)
    whole = insert(graph, node, A.reshape.default, mean, [n, 1, 1, channels], like=node)
    return _root(graph, node, whole, height * width)


def _by_matmul(graph: GraphModule, node: Node, square: Node) -> Node:
    n, height, width, channels = shape_of(square)
    rows = insert(graph, node, A.reshape.default, square, [n, height * width, channels], like=node)
    ones = add_constant(graph, node, f"{node.name}.ones", torch.ones(1, height * width))
    total = insert(graph, node, A.matmul.default, ones, rows, like=node)
    whole = insert(graph, node, A.reshape.default, total, [n, 1, 1, channels], like=node)
    return insert(graph, node, A.sqrt.default, whole, like=node)
