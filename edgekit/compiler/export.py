"""Exports a network as a graph, computes its constants, folds its batch norms and removes no-ops."""

import copy
import math
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
    insert,
    layer_name,
    pair,
    refresh,
    set_weights,
    shape_of,
)  # fmt: skip
from edgekit.compiler.in_place import functional_graph, is_same, keeps_dtype

M = TypeVar("M", bound=nn.Module)

COPIES = {A.lift_fresh_copy.default, A.contiguous.default, A.clone.default}
"""Operations that do nothing but copy their input."""
EQUIVALENT = {
    A.view.default: A.reshape.default,  # which works with any strides, and rewrites change them
    A.__and__.Tensor: A.bitwise_and.Tensor,
    A.__or__.Tensor: A.bitwise_or.Tensor,
    A.__xor__.Tensor: A.bitwise_xor.Tensor,
}
"""Operations, and others that compute the same of the same arguments."""


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


def replace_operations(graph: GraphModule) -> None:
    """Replace operations that passes or runtimes don't know by others with the same values."""
    for node in list(graph.graph.nodes):
        node.target = EQUIVALENT.get(node.target, node.target)
        if node.target is A.bitwise_xor.Tensor and node.meta["val"].dtype == torch.bool:
            node.target = A.ne.Tensor  # LiteRT has no other operation for it
        elif node.target is A._native_batch_norm_legit_no_training.default:
            _restore_batch_norm(graph, node)
        elif node.target is A.copy.default:
            _replace_copy(graph, node)
        elif node.target is A.index_put.default:
            _put_by_mask(graph, node)
        elif node.target is A.unfold.default:
            _gather_windows(graph, node)
        elif node.target is A.col2im.default:
            _gather_overlaps(graph, node)
        elif node.target is A.scaled_dot_product_attention.default and len(shape_of(node)) != 4:
            _give_attention_four_axes(graph, node)


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


def _restore_batch_norm(graph: GraphModule, node: Any) -> None:
    """Replace the form that a batch norm gets when torch makes a graph functional."""
    *inputs, momentum, eps = node.args
    norm = insert(graph, node, A.batch_norm.default, *inputs, False, momentum, eps, False, like=node)
    for first in list(node.users):
        first.replace_all_uses_with(norm)


def _replace_copy(graph: GraphModule, node: Any) -> None:
    """Replace the result of writing one value over another by the one that was written."""
    to, value = node.args[:2]
    if value.meta["val"].dtype != to.meta["val"].dtype:
        value = insert(graph, node, A.to.dtype, value, to.meta["val"].dtype, like=node)
    if shape_of(value) != shape_of(to):
        value = insert(graph, node, A.expand.default, value, list(shape_of(to)), like=node)
    node.replace_all_uses_with(value)


def _put_by_mask(graph: GraphModule, put: Any) -> None:
    """Replace ``x[mask] = value`` by a choice. LiteRT's converter wants to know the mask in advance."""
    source, indices, value = put.args[:3]
    if len(indices) != 1 or argument(put, 3, False) or value.meta["val"].numel() != 1:
        return
    (mask,) = indices
    if mask.meta["val"].dtype == torch.bool and shape_of(mask) == shape_of(source):
        put.replace_all_uses_with(insert(graph, put, A.where.self, mask, value, source, like=put))


def _gather_windows(graph: GraphModule, unfold: Any) -> None:
    """Replace an unfold by a gather. LiteRT's converter would pad it in more dimensions than its kernels know."""
    source, axis, size, step = unfold.args
    before = shape_of(source)
    dimension = axis % len(before)
    count = shape_of(unfold)[dimension]
    places = torch.arange(count)[:, None] * step + torch.arange(size)
    index = add_constant(graph, unfold, f"{unfold.name}.index", places.flatten())
    gathered = insert(graph, unfold, A.index_select.default, source, dimension, index)
    windows = (*before[:dimension], count, size, *before[dimension + 1 :])
    split = insert(graph, unfold, A.reshape.default, gathered, windows)
    order = [place for place in range(len(windows)) if place != dimension + 1]
    unfold.target, unfold.args = A.permute.default, (split, [*order, dimension + 1])


def _gather_overlaps(graph: GraphModule, fold: Any) -> None:
    """Replace a fold by a gather of the values that overlap at each pixel, and their sum.

    torch decomposes it into an addition at computed places, which LiteRT doesn't know.
    """
    columns, (height, width), *window = fold.args
    channels = shape_of(fold)[-3]
    # The pixel, counted from 1, to which each value of a channel is added; 0 for the padding.
    pixels = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    targets = nn.functional.unfold(pixels, *window).flatten().long()
    counts = torch.bincount(targets)
    values = targets.argsort(stable=True)[counts[0] :]  # in the order of the pixels, without those of the padding
    pixel = targets[values] - 1
    rank = torch.arange(len(values)) - (counts.cumsum(0) - counts[0])[pixel]
    places = torch.full((int(counts[1:].max()), height * width), len(targets))  # by default the zero behind the values
    places[rank, pixel] = values
    flat = insert(graph, fold, A.reshape.default, columns, [-1, channels, len(targets)])
    padded = insert(graph, fold, A.pad.default, flat, [0, 1])
    index = add_constant(graph, fold, f"{fold.name}.index", places.flatten())
    gathered = insert(graph, fold, A.index_select.default, padded, 2, index)
    overlaps = insert(graph, fold, A.reshape.default, gathered, [-1, channels, *places.shape])
    total = insert(graph, fold, A.sum.dim_IntList, overlaps, [2])
    fold.target, fold.args = A.reshape.default, (total, list(shape_of(fold)))


def _give_attention_four_axes(graph: GraphModule, attention: Any) -> None:
    """Give an attention over fewer or more than four axes four, the only number that torch's export to ONNX takes."""
    shape = shape_of(attention)
    masks = attention.args[3:4]
    if any(mask is not None and shape_of(mask)[:-2] != shape[:-2] for mask in masks):
        return  # broadcasting a mask over some of many axes is rare
    outer = [1] * (3 - len(shape)) + [math.prod(shape[:-3]), *shape[-3:-2]]
    values = [
        None if value is None else insert(graph, attention, A.reshape.default, value, [*outer, *shape_of(value)[-2:]])
        for value in attention.args[:4]
    ]
    arguments = (*values, *attention.args[4:])
    output = insert(graph, attention, attention.target, *arguments, like=attention, **attention.kwargs)
    if any(mask is not None for mask in masks):
        # With a mask, torch may choose another kernel each time it is traced, and their outputs differ in strides.
        output = insert(graph, attention, A.clone.default, output, memory_format=torch.contiguous_format)
    attention.replace_all_uses_with(insert(graph, attention, A.reshape.default, output, list(shape)))
    graph.graph.erase_node(attention)  # which dead code elimination keeps, because it might drop values at random


def copy_sharing(module: M) -> M:
    """A deep copy that shares the module's tensors, so changes to the copy must replace tensors, not write to them.

    Memory may not have room for two copies of a network with billions of weights.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


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
    remove_no_ops,
    replace_operations,
    fold_constants,
    fold_batch_norms,
)
"""The steps of `simplify`. Each leaves a graph whose nodes have their fake tensors."""
