"""Exports a network as a graph, computes its constants, folds its batch norms and removes no-ops."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.compiler.constants import fold_constants
from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    constant,
    drop_constants,
    insert,
    layer_name,
    pair,
    refresh,
    set_weights,
    shape_of,
)  # fmt: skip
from edgekit.compiler.in_place import functional_graph, is_same, keeps_dtype
from edgekit.compiler.operations import rename_operations, replace_operations

M = TypeVar("M", bound=nn.Module)

COPIES = {A.lift_fresh_copy.default, A.contiguous.default, A.clone.default}
"""Operations that do nothing but copy their input."""


@torch.no_grad()
def export_graph(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The graph of `module` for float32 inputs of `shape` [1,C,H,W], with batch norms folded and no-ops removed.

    torch.export makes the graph. It shares the tensors of the module, which is not changed.
    """
    return simplify(trace(module, shape))


def trace(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The functional graph that torch.export makes of `module`. Exceptions of the module's own code are not caught."""
    example = torch.zeros(tuple(shape))
    return functional_graph(torch.export.export(copy_sharing(module).eval(), (example,)))


def simplify(graph: GraphModule) -> GraphModule:
    """Remove no-ops, compute what depends on weights alone, and fold batch norms, in place. Returns the same graph."""
    for step in STEPS:
        step(graph)
    return refresh(graph)


def remove_no_ops(graph: GraphModule) -> None:
    """Remove the nodes whose value is that of their input. Dead code elimination would keep dropout as random."""
    for node in list(graph.graph.nodes):
        if node.target is A._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
        elif is_same(node) or _copies(node) or _clips_nothing(graph, node) or _pads_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _copies(node: Node) -> bool:
    """Whether a node copies its input, which in a functional graph is the same as its input."""
    return node.target in COPIES or keeps_dtype(node)


def _clips_nothing(graph: GraphModule, node: Node) -> bool:
    """Whether a node limits values to the range from minus infinity to infinity, as Gemma does before its training."""
    if node.target is not A.clamp.Tensor:
        return False
    limits = [constant(graph, limit) for limit in node.args[1:]]
    return all(limit is not None and bool(torch.isinf(limit).all()) for limit in limits)


def _pads_nothing(node: Node) -> bool:
    """Whether a node adds no pixels, as where the padding depends on the size of the image."""
    widths: Any = argument(node, 1, None)
    return node.target is A.pad.default and not any(widths)


def copy_sharing(module: M) -> M:
    """A deep copy that shares the module's tensors, so changes to the copy must replace tensors, not write to them.

    Memory may not have room for two copies of a network with billions of weights.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def fold_biases(graph: GraphModule) -> None:
    """Fold what is added to each channel behind a convolution or linear layer into its bias, as in files of Paddle."""
    for node in list(graph.graph.nodes):
        if node.target is not A.add.Tensor or node.kwargs:
            continue
        for layer, added in (node.args, node.args[::-1]):
            shift = _per_channel(layer, constant(graph, added))
            if shift is None or len(layer.users) != 1:
                continue
            old = constant(graph, argument(layer, 2, None))
            bias = add_constant(graph, layer, f"{layer_name(layer)}.bias", shift if old is None else old + shift)
            before, layer.args = layer.args, (*layer.args[:2], bias, *layer.args[3:])
            drop_constants(graph, before[2:3])
            node.replace_all_uses_with(layer)
            break


def _per_channel(layer: Any, value: Tensor | None) -> Tensor | None:
    """A value [C] for each output channel of a layer, if it broadcasts so; None for other nodes and shapes."""
    if value is None or not isinstance(layer, Node) or layer.target not in (A.conv2d.default, A.linear.default):
        return None
    shape = [1] * len(shape_of(layer))
    axis = 1 if layer.target is A.conv2d.default else len(shape) - 1
    shape[axis] = shape_of(layer)[axis]
    return value.flatten() if [1] * (len(shape) - value.ndim) + list(value.shape) == shape else None


def fold_batch_norms(graph: GraphModule) -> None:
    """Fold each batch norm into the convolution before it or the 1x1 one after it; others become a product and a sum.

    None may remain, because NNCF folds it into the convolution before it even if that has other consumers.
    """
    for node in list(graph.graph.nodes):
        if node.target is not A.batch_norm.default:
            continue
        weight, bias, mean, variance = (constant(graph, a) for a in node.args[1:5])
        if mean is None or variance is None:  # statistics of the image, as an instance norm has them
            continue
        scale = torch.rsqrt(variance.double() + node.args[7]) * (1 if weight is None else weight.double())
        shift = (0 if bias is None else bias.double()) - mean.double() * scale
        if not (_fold_before(graph, node, scale, shift) or _fold_behind(graph, node, scale, shift)):
            shape = (1, -1, *[1] * (len(shape_of(node)) - 2))
            factor = add_constant(graph, node, f"{layer_name(node)}.scale", scale.float().view(shape))
            offset = add_constant(graph, node, f"{layer_name(node)}.shift", shift.float().view(shape))
            product = insert(graph, node, A.mul.Tensor, node.args[0], factor, like=node)
            node.replace_all_uses_with(insert(graph, node, A.add.Tensor, product, offset, like=node))


def _fold_before(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    """Fold into the convolution before the norm, if the norm is its only consumer."""
    conv = norm.args[0]
    if not isinstance(conv, Node) or conv.target is not A.conv2d.default or len(conv.users) != 1:
        return False
    kernel = constant(graph, conv.args[1])
    if kernel is None:
        return False
    old = constant(graph, argument(conv, 2, None))
    moved = shift if old is None else shift + old.double() * scale
    set_weights(graph, conv, (kernel.double() * scale.view(-1, 1, 1, 1)).float(), moved.float())
    norm.replace_all_uses_with(conv)
    return True


def _fold_behind(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    """Fold into the 1x1 convolution that is the norm's only consumer, unless padding adds zeros that need the shift."""
    conv = next(iter(norm.users), None)
    if conv is None or len(norm.users) != 1 or conv.target is not A.conv2d.default:
        return False
    kernel = constant(graph, conv.args[1])
    unpadded = pair(argument(conv, 4, [0, 0])) == (0, 0) and argument(conv, 6, 1) == 1
    if kernel is None or not unpadded or kernel.shape[2:] != (1, 1):
        return False
    old = constant(graph, argument(conv, 2, None))
    moved = (kernel.double() * shift.view(1, -1, 1, 1)).sum((1, 2, 3)) + (0 if old is None else old.double())
    set_weights(graph, conv, (kernel.double() * scale.view(1, -1, 1, 1)).float(), moved.float())
    source = norm.args[0]
    assert isinstance(source, Node)
    norm.replace_all_uses_with(source)
    return True


STEPS: tuple[Callable[[GraphModule], object], ...] = (
    rename_operations,
    remove_no_ops,
    replace_operations,
    fold_constants,
    fold_biases,
    fold_batch_norms,
)
"""The steps of `simplify`. Each leaves a graph whose nodes have their fake tensors."""
