"""Removes batch norms, which in evaluation are a factor and a constant per channel."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constants, insert
from edgekit.compiler.layers import dense_layer, scale_input, scale_output
from edgekit.compiler.nodes import A, layer_name, literal, operand, shape_of


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
    """Fold each batch norm into the convolution before it or the 1x1 one after it; others become a product and a sum.

    Only those that compute their statistics from the image remain, as an instance norm does. NNCF would fold any other
    into the convolution before it even if that has other consumers. Returns the number of norms removed.
    """
    removed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.batch_norm.default):
        affine = factor_and_shift(graph, node)
        if affine is None:
            continue
        scale, shift = affine
        if not (_fold_before(graph, node, scale, shift) or _fold_after(graph, node, scale, shift)):
            shape = (1, -1, *[1] * (len(shape_of(node)) - 2))
            factor = add_constant(graph, node, f"{layer_name(node)}.scale", scale.float().view(shape))
            offset = add_constant(graph, node, f"{layer_name(node)}.shift", shift.float().view(shape))
            product = insert(graph, node, A.mul.Tensor, node.args[0], factor, like=node)
            node.replace_all_uses_with(insert(graph, node, A.add.Tensor, product, offset, like=node))
        removed += 1
    return removed


def factor_and_shift(graph: GraphModule, norm: Node) -> tuple[Tensor, Tensor] | None:
    """The factor and constant of each channel, float64 [C]; None if a norm computes its statistics from the image."""
    weight, bias, mean, variance = constants(graph, *norm.args[1:5]) or [None] * 4
    if mean is None or variance is None:
        return None
    scale = torch.rsqrt(variance.double() + literal(norm.args[7], float)) * (1 if weight is None else weight.double())
    return scale, (0 if bias is None else bias.double()) - mean.double() * scale


def _fold_before(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    """Fold into the convolution before the norm, if the norm is its only consumer."""
    layer = dense_layer(operand(norm))
    if layer is None or not layer.is_conv or len(layer.node.users) != 1:
        return False
    if not scale_output(graph, layer, scale, shift):
        return False
    norm.replace_all_uses_with(layer.node)
    return True


def _fold_after(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    """Fold into the 1x1 convolution that is the norm's only consumer, unless padding adds zeros that need the shift."""
    layer = dense_layer(next(iter(norm.users), None))
    if layer is None or not layer.is_conv or len(norm.users) != 1:
        return False
    if layer.padding != (0, 0) or layer.groups != 1 or layer.kernel != (1, 1):
        return False
    if not scale_input(graph, layer, scale, shift):
        return False
    norm.replace_all_uses_with(operand(norm))
    return True
