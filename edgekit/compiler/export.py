"""Exports a network as a graph, computes its constants, folds its batch norms and removes no-ops."""

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.compat.torch import out_of_place
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
from edgekit.compiler.inline import inline_wrapped

M = TypeVar("M", bound=nn.Module)

NO_OPS = {
    A.dropout.default,
    A.alias.default,
    A.detach.default,
    A.lift_fresh_copy.default,
    A.contiguous.default,
    A.clone.default,
}


@torch.no_grad()
def export_graph(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The graph of `module` for float32 inputs of `shape` [1,C,H,W], with batch norms folded and no-ops removed.

    torch.export makes the graph. It shares the tensors of the module, which is not changed.
    """
    return simplify(trace(module, shape))


def trace(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The graph that torch.export makes of `module`. Exceptions of the module's own code are not caught."""
    example = torch.zeros(tuple(shape))
    graph = torch.export.export(copy_sharing(module).eval(), (example,)).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return graph


def simplify(graph: GraphModule) -> GraphModule:
    """Remove no-ops, compute what depends on weights alone, and fold batch norms, in place. Returns the same graph."""
    inline_wrapped(graph)
    for node in list(graph.graph.nodes):
        if node.target is A._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
        elif node.target in NO_OPS or _keeps_dtype(node) or _clips_nothing(graph, node) or _pads_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)  # dead code elimination would keep dropout as random
        elif node.target is A.view.default:  # a reshape works with any strides, and rewrites change them
            node.target = A.reshape.default
        elif (operation := out_of_place(node.target)) is not None:
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user > node)
            node.target = operation
        elif node.target is A.unfold.default:
            _gather_windows(graph, node)
        elif node.target is A.col2im.default:
            _gather_overlaps(graph, node)
        elif node.target is A.scaled_dot_product_attention.default and len(shape_of(node)) != 4:
            _give_attention_four_axes(graph, node)
    fold_constants(graph)
    _fold_batch_norms(graph)
    return refresh(graph)


def _keeps_dtype(node: Node) -> bool:
    """Whether a node converts a value to the type that it has."""
    if node.target is not A.to.dtype:
        return False
    value = node.args[0]
    assert isinstance(value, Node)
    return bool(value.meta["val"].dtype == node.args[1])


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
    attention.args = (*values, *attention.args[4:])
    output = attention
    if any(mask is not None for mask in masks):
        # With a mask, torch may choose another kernel each time it is traced, and their outputs differ in strides.
        output = insert(graph, attention.next, A.clone.default, attention, memory_format=torch.contiguous_format)
    whole = insert(graph, output.next, A.reshape.default, output, shape)
    attention.replace_all_uses_with(whole, delete_user_cb=lambda user: user not in (output, whole))


def copy_sharing(module: M) -> M:
    """A deep copy that shares the module's tensors, so changes to the copy must replace tensors, not write to them.

    Memory may not have room for two copies of a network with billions of weights.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _fold_batch_norms(graph: GraphModule) -> None:
    """Fold each batch norm into the convolution before it or the 1x1 one after it; others become a product and a sum.

    None may remain, because NNCF folds it into the convolution before it even if that has other consumers.
    """
    for node in list(graph.graph.nodes):
        if node.target is not A.batch_norm.default:
            continue
        weight, bias, mean, variance = (constant(graph, a) for a in node.args[1:5])
        if weight is None or bias is None or mean is None or variance is None:
            continue
        scale = weight.double() * torch.rsqrt(variance.double() + node.args[7])
        shift = bias.double() - mean.double() * scale
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
