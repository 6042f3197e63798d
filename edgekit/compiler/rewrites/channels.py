"""Converts layers between [N,C,H,W] and [N,H,W,C], where a runtime has faster kernels for the other layout.

OpenVINO stores the channels last in memory anyway, but only for operations whose shape is channels first. There, each
permute to [N,H,W,C] or back copies the tensor. Other converters put a transpose before and after every operation whose
layout differs from their own: with channels last, each pointwise convolution becomes a Linear between two permutes. The
permutes back sink through operations that work in either layout, until they meet their inverse and both cancel. One
pair remains around each spatial convolution.
"""

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constants, insert_layer, inserter, replace_each
from edgekit.compiler.layers import DenseLayer, FixedWeights, replace_layers
from edgekit.compiler.nodes import A, argument, integers, shape_of
from edgekit.compiler.rewrites.layout import TO_FIRST, TO_LAST, sink_permutes


@torch.no_grad()
def channels_first(graph: GraphModule) -> int:
    """Replace each Linear on [N,H,W,C] by a pointwise convolution on [N,C,H,W].

    Returns the number of layers replaced.
    """

    def pointwise(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        node, call = layer.node, inserter(graph, layer.node)
        if layer.is_conv or len(shape_of(node)) != 4:
            return None
        inner = call(A.permute.default, layer.source, TO_FIRST)
        conv = insert_layer(graph, node, A.conv2d.default, inner, weights.weight[:, :, None, None], weights.bias)
        return call(A.permute.default, conv, TO_LAST)

    replaced = replace_layers(graph, pointwise)
    sink_permutes(graph, TO_LAST)
    return replaced


@torch.no_grad()
def channels_last(graph: GraphModule) -> int:
    """Replace each pointwise convolution by a Linear on channels last.

    Returns the number of convolutions replaced.
    """

    def linear(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        node, call = layer.node, inserter(graph, layer.node)
        plain = layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
        if not layer.is_conv or layer.kernel != (1, 1) or not plain:
            return None
        inner = call(A.permute.default, layer.source, TO_LAST)
        rows = insert_layer(graph, node, A.linear.default, inner, weights.weight.flatten(1), weights.bias)
        return call(A.permute.default, rows, TO_FIRST)

    replaced = replace_layers(graph, linear)
    sink_permutes(graph, TO_FIRST)
    return replaced


@torch.no_grad()
def channels_first_layer_norm(graph: GraphModule) -> int:
    """Decompose LayerNorm over the channels of [N,H,W,C] into operations on [N,C,H,W].

    Both reductions read the original tensor, so that centring, scaling and the operations after them need only one more
    pass. The variance is therefore the mean square minus the square of the mean. In float32 this loses precision by the
    factor by which the squared mean exceeds the variance: a digit or two after a depthwise convolution.

    Returns the number of norms changed.
    """

    def decomposed(norm: Node) -> Node | None:
        affine = constants(graph, argument(norm, 2), argument(norm, 3))
        if affine is None or len(integers(norm.args[1])) != 1 or len(shape_of(norm)) != 4:
            return None
        channels, eps, call = shape_of(norm)[-1], argument(norm, 4, 1e-5), inserter(graph, norm)
        x = call(A.permute.default, norm.args[0], TO_FIRST)
        # OpenVINO's kernels for a sum and a vector norm are faster than those for a mean and a mean square.
        mean = call(A.mul.Tensor, call(A.sum.dim_IntList, x, [1], True), 1 / channels)
        length = call(A.linalg_vector_norm.default, x, 2, [1], True)
        squares = [call(A.mul.Tensor, value, value) for value in (length, mean)]
        variance = call(A.sub.Tensor, call(A.mul.Tensor, squares[0], 1 / channels), squares[1])
        variance = call(A.add.Tensor, call(A.relu.default, variance), eps)  # rounding must not make it negative
        out = call(A.mul.Tensor, call(A.sub.Tensor, x, mean), call(A.rsqrt.default, variance))
        for part, target in zip(affine, (A.mul.Tensor, A.add.Tensor), strict=True):
            if part is not None:
                out = call(target, out, add_constant(graph, norm, f"{norm.name}.affine", part[:, None, None]))
        return call(A.permute.default, out, TO_LAST)

    replaced = replace_each(graph, {A.layer_norm.default}, decomposed)
    sink_permutes(graph, TO_LAST)
    return replaced
