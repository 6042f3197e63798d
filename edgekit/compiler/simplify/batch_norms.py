"""Removes batch norms, which in evaluation are a factor and a constant per channel."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constants, insert, replace_each
from edgekit.compiler.layers import dense_layer, scale_input, scale_output
from edgekit.compiler.nodes import A, layer_name, literal, operand, shape_of

VIEWS = {A.reshape.default, A.flatten.using_ints}


def restore_batch_norms(graph: GraphModule) -> int:
    """Replace the form that a batch norm gets when torch makes a graph functional. Returns the number of norms."""
    norms = graph.graph.find_nodes(op="call_function", target=A._native_batch_norm_legit_no_training.default)
    for node in norms:
        *inputs, momentum, eps = node.args
        norm = insert(graph, node, A.batch_norm.default, *inputs, False, momentum, eps, False, like=node)
        for first in list(node.users):
            first.replace_all_uses_with(norm)
    return len(norms)


@torch.no_grad()
def fold_batch_norms(graph: GraphModule) -> int:
    """Fold each batch norm into the layer before it or the 1x1 convolution after it; others become a product and a sum.

    Only those that compute their statistics from the image remain, as an instance norm does. NNCF would fold any other
    into the convolution before it even if that has other consumers. Returns the number of norms removed.
    """

    def folded(norm: Node) -> Node | None:
        affine = factor_and_shift(graph, norm)
        if affine is None:
            return None
        neighbour = _fold_before(graph, norm, *affine) or _fold_after(graph, norm, *affine)
        if neighbour is not None:
            return neighbour
        shape = (1, -1, *[1] * (len(shape_of(norm)) - 2))
        factor, offset = (
            add_constant(graph, norm, f"{layer_name(norm)}.{name}", value.float().view(shape))
            for name, value in zip(("scale", "shift"), affine, strict=True)
        )
        product = insert(graph, norm, A.mul.Tensor, norm.args[0], factor, like=norm)
        return insert(graph, norm, A.add.Tensor, product, offset, like=norm)

    return replace_each(graph, {A.batch_norm.default}, folded)


def factor_and_shift(graph: GraphModule, norm: Node) -> tuple[Tensor, Tensor] | None:
    """The factor and constant of each channel, float64 [C]; None if a norm computes its statistics from the image."""
    weight, bias, mean, variance = constants(graph, *norm.args[1:5]) or [None] * 4
    if mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance.double() + literal(norm.args[7], float)) * (1 if weight is None else weight.double())
    return scale, (0 if bias is None else bias.double()) - mean.double() * scale


def _fold_before(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> Node | None:
    """Fold into the layer before the norm, if the norm is its only consumer. Returns the norm's input.

    Between a linear layer and a norm of rows, views may merge the axes before the channels.
    """
    value, of_rows = operand(norm), len(shape_of(norm)) == 2
    while of_rows and value.target in VIEWS and len(value.users) == 1 and _keeps_channels(value):
        value = operand(value)
    layer = dense_layer(value)
    if layer is None or layer.is_conv == of_rows or len(value.users) != 1:
        return None
    return operand(norm) if scale_output(graph, layer, scale, shift) else None


def _keeps_channels(view: Node) -> bool:
    """Whether the last axis is also that of the view's input."""
    return shape_of(view)[-1:] == shape_of(operand(view))[-1:]


def _fold_after(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> Node | None:
    """Fold into the 1x1 convolution that is the norm's only consumer, unless padding adds zeros that need the shift.

    Returns the norm's input.
    """
    layer = dense_layer(next(iter(norm.users), None))
    if layer is None or not layer.is_conv or len(norm.users) != 1:
        return None
    if layer.padding != (0, 0) or layer.groups != 1 or layer.kernel != (1, 1):
        return None
    return operand(norm) if scale_input(graph, layer, scale, shift) else None
