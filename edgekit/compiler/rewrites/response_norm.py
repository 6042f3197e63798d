"""ConvNeXt V2's global response normalization (GRN, arXiv 2301.00808) in the cheapest exact form."""

import math
from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constants, insert, inserter, replace_each
from edgekit.compiler.layers import scale_input
from edgekit.compiler.nodes import A, argument, integers, operand, shape_of
from edgekit.compiler.rewrites.affine import dense_consumers


@torch.no_grad()
def fold_response_norm(graph: GraphModule) -> int:
    """Replace ``x + (b + w * (x * n))`` by ``x * (1 + w * n)``, and fold b into the next layer.

    Only one of three operations over the wide tensor remains.

    Returns the number of norms changed.
    """

    def folded(total: Node) -> Node | None:
        parts = _match(graph, total)
        if parts is None:
            return None
        (x, n, weight, bias), call = parts, inserter(graph, total)
        axis = channel_axis(bias, total)
        below = None if axis is None else dense_consumers(graph, total, axis)
        scale = call(A.mul.Tensor, n, add_constant(graph, total, f"{total.name}.weight", weight))
        out = call(A.mul.Tensor, x, call(A.add.Tensor, scale, 1.0))
        if below is None:
            return call(A.add.Tensor, out, add_constant(graph, total, f"{total.name}.bias", bias))
        for layer in below:
            scale_input(graph, layer, None, bias.flatten())
        return out

    return replace_each(graph, {A.add.Tensor}, folded)


def _match(graph: GraphModule, node: Node) -> tuple[Node, Node, torch.Tensor, torch.Tensor] | None:
    """x, n, weight and bias of ``add(x, addcmul(bias, weight, mul(x, n)))``; None for other nodes."""
    if node.kwargs:
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

    def of_squares(norm: Node) -> Node | None:
        if norm.args[1:2] != (2,) or norm.kwargs:
            return None
        x, over, keep = operand(norm), argument(norm, 2), argument(norm, 3, False)
        axes = [axis % len(shape_of(x)) for axis in integers(over or [])]
        if not axes:
            return None  # the norm of all values
        square = insert(graph, norm, A.mul.Tensor, x, x, like=norm)
        if len(shape_of(x)) == 4 and sorted(axes) == [1, 2] and keep:
            return length_of(graph, norm, square)
        mean = insert(graph, norm, A.mean.dim, square, axes, keep, like=norm)
        return _root(graph, norm, mean, math.prod(shape_of(x)[axis] for axis in axes))

    return replace_each(graph, {A.linalg_vector_norm.default}, of_squares)


def _root(graph: GraphModule, node: Node, mean: Node, count: int) -> Node:
    """The square root of a sum of `count` values with this mean."""
    root = insert(graph, node, A.sqrt.default, mean, like=node)
    return insert(graph, node, A.mul.Tensor, root, math.sqrt(count), like=node)


def _by_mean(graph: GraphModule, node: Node, square: Node) -> Node:
    _, height, width, _ = shape_of(square)
    return _root(graph, node, insert(graph, node, A.mean.dim, square, [1, 2], True, like=node), height * width)


def _by_mean_of_rows(graph: GraphModule, node: Node, square: Node) -> Node:
    (n, height, width, channels), call = shape_of(square), inserter(graph, node)
    rows = call(A.reshape.default, square, [n, height * width, channels])
    mean = call(A.mean.dim, rows, [1], True)
    return _root(graph, node, call(A.reshape.default, mean, [n, 1, 1, channels]), height * width)


def _by_matmul(graph: GraphModule, node: Node, square: Node) -> Node:
    (n, height, width, channels), call = shape_of(square), inserter(graph, node)
    rows = call(A.reshape.default, square, [n, height * width, channels])
    ones = add_constant(graph, node, f"{node.name}.ones", torch.ones(1, height * width))
    total = call(A.matmul.default, ones, rows)
    return call(A.sqrt.default, call(A.reshape.default, total, [n, 1, 1, channels]))
