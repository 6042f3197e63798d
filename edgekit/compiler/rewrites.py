"""Rewrites of the exported graph: small passes that recipes enable by name, with the same outputs as torch.

Those in `APPROXIMATE` approximate, and their docstrings give the largest difference; all others are exact up to
rounding. Each pass changes the graph in place and returns the number of places that it changed; `rewrite` then removes
nodes without users. The recipes document the measurements that justify the passes.

Those of convolutions are in `layouts`. Here are those of norms, scales and activations: scales and shifts go into dense
layers, LayerNorm is written in the operations that a runtime computes fastest, ConvNeXt V2's global response
normalization (GRN, arXiv 2301.00808) in its cheapest exact form, and GELU in cheaper ones, for runtimes whose kernel
for the error function is slow.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler import layouts
from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    axes_of,
    constant,
    constants,
    copy_sharing,
    insert,
    inserter,
    integers,
    node_of,
    operand,
    refresh,
    replace_each,
    set_weights,
    shape_of,
)
from edgekit.compiler.layers import DenseLayer, dense_layer, fixed_weights, scale_input, scale_output
from edgekit.compiler.layouts import ConvolutionShape
from edgekit.errors import ProfileError


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


SEVEN = (
    3.95,
    (0.397986726, -0.064722792, 0.00884293546, -0.000829042663, 4.9552263e-05, -1.6811683e-06, 2.44360837e-08),
)
"""Limit T and coefficients c of t * (c0 + c1 t^2 + ...), which approximates the normal distribution function minus 0.5.

A linear program chose them: for t from 0 to T they minimize the largest difference from GELU, and at T the sum is 0.5,
so that GELU is 0 below -T and x above T.
"""
FOUR = (3.05, (0.386253537, -0.0520552217, 0.00441676548, -0.00014942359))
"""The same with four coefficients."""


def polynomial_gelu(graph: GraphModule) -> int:
    """Replace GELU by a polynomial of degree 13 between -3.95 and 3.95. The difference is at most 1.7e-4.

    Returns the number of GELUs replaced.
    """
    return _polynomial(graph, *SEVEN)


def coarse_polynomial_gelu(graph: GraphModule) -> int:
    """Replace GELU by a polynomial of degree 7 between -3.05 and 3.05. The difference is at most 3.6e-3.

    That is less than the error of 8-bit values. Returns the number of GELUs replaced.
    """
    return _polynomial(graph, *FOUR)


def tanh_gelu(graph: GraphModule) -> int:
    """Replace GELU by its usual approximation with tanh. The difference is at most 4.8e-4.

    Returns the number of GELUs replaced.
    """
    found = [node for node in graph.graph.nodes if _is_exact(node)]
    for node in found:
        node.kwargs = {"approximate": "tanh"}
    return len(found)


def _is_exact(node: Node) -> bool:
    return node.target is A.gelu.default and node.kwargs.get("approximate", "none") == "none"


@torch.no_grad()
def _polynomial(graph: GraphModule, limit: float, coefficients: Sequence[float]) -> int:
    def polynomial(gelu: Node) -> Node | None:
        if not _is_exact(gelu):
            return None
        x, call = gelu.args[0], inserter(graph, gelu)
        t = call(A.clamp.default, x, -limit, limit)
        square = call(A.mul.Tensor, t, t)
        *inner, last = coefficients
        first = call(A.add.Tensor, call(A.mul.Tensor, square, last), inner[-1])
        total = reduce(lambda sum_, c: call(A.add.Tensor, call(A.mul.Tensor, sum_, square), c), inner[-2::-1], first)
        return call(A.mul.Tensor, x, call(A.add.Tensor, call(A.mul.Tensor, total, t), 0.5))

    return replace_each(graph, {A.gelu.default}, polynomial)


__all__ = ["APPROXIMATE", "REWRITES", "ConvolutionShape", "Rewritten", "rewrite", "weights_after"]

REWRITES: dict[str, Callable[[GraphModule], int]] = {
    "layer-scale": fold_layer_scale,
    "layer-norm-affine": fold_layer_norm_affine,
    "response-norm": fold_response_norm,
    "centred-layer-norm": centre_before_layer_norm,
    "channels-last": layouts.channels_last,
    "patch-linear": layouts.patch_linear,
    "image-patch-linear": layouts.image_patch_linear,
    "channels-first": layouts.channels_first,
    "channels-first-layer-norm": layouts.channels_first_layer_norm,
    "rows-layer-norm": rows_layer_norm,
    "vector-norm-sum": vector_norm_sum,
    "vector-norm-mean": vector_norm_mean,
    "vector-norm-matmul": vector_norm_matmul,
    "depth-multiplier": layouts.depth_multiplier,
    "depthwise-blocks": layouts.depthwise_blocks,
    "split-depthwise": layouts.split_depthwise,
    "split-depthwise-in-three": layouts.split_depthwise_in_three,
    "plain-layer-norm": plain_layer_norm,
    "half-precision-layer-norm": half_precision_layer_norm,
    "coarse-polynomial-gelu": coarse_polynomial_gelu,
    "polynomial-gelu": polynomial_gelu,
    "tanh-gelu": tanh_gelu,
}

APPROXIMATE = {"coarse-polynomial-gelu", "polynomial-gelu", "tanh-gelu"}
"""Passes that are not exact up to rounding. They come last."""


def weights_after(names: Collection[str], shape: ConvolutionShape) -> int | None:
    """Number of weights that the named passes give a convolution; None if they keep the number."""
    return layouts.weights_on_blocks(shape) if "depthwise-blocks" in names else None


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph, and the number of places that each pass changed."""

    graph: GraphModule
    counts: Mapping[str, int]
    """Number of places that each named pass changed, in the order of application; 0 if it matched nothing."""


def rewrite(graph: GraphModule, names: Iterable[str]) -> Rewritten:
    """Apply the named passes to a copy of the graph, which shares its tensors, always in the order of `REWRITES`.

    Raises ProfileError for an unknown name.
    """
    wanted = set(names)
    if unknown := wanted - REWRITES.keys():
        raise ProfileError(f"unknown rewrite {', '.join(sorted(unknown))}", valid=", ".join(REWRITES))
    graph = copy_sharing(graph)
    counts = {}
    for name, apply in REWRITES.items():
        if name in wanted:
            counts[name] = apply(graph)
            refresh(graph)
    return Rewritten(graph, counts)
