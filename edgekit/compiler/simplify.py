"""Simplification of a traced graph: passes that every network goes through before the rewrites of a recipe.

Each pass changes the graph in place, leaves every node with its fake tensor, and returns the number of places that it
changed. It may leave nodes without users, which `simplify` removes at the end. All passes are exact up to rounding.

Those of what computes are in `arithmetic`. Here are those that give convolutions and attention the axes that passes,
recipes and exporters know; that replace windows, and the forms that writing into a tensor gets when torch makes a graph
functional, by gathers; that remove nodes whose value is that of their input, of which dead code elimination would keep
dropout, as random; and that replace operations which passes or runtimes don't know.
"""

import math
import operator
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler import arithmetic
from edgekit.compiler.graph import (
    A,
    MappedFiles,
    add_constant,
    argument,
    constant,
    constants,
    insert,
    integers,
    is_same,
    keep_constants_in,
    keeps_dtype,
    layer_name,
    literal,
    number,
    operand,
    operation_of,
    pair,
    refresh,
    shape_of,
    value_of,
)

CONVOLUTIONS = {A.conv1d.default: A.conv2d.default, A.conv1d.padding: A.conv2d.padding}
ON_ROWS = {
    A.batch_norm.default,
    A.relu.default,
    A.gelu.default,
    A.silu.default,
    A.hardswish.default,
    A.hardsigmoid.default,
    A.hardtanh.default,
    A.sigmoid.default,
    A.tanh.default,
    A.leaky_relu.default,
    A.clamp.default,
}
"""Operations that compute the same on [N,C,1,L] as on [N,C,L]."""


def give_convolutions_four_axes(graph: GraphModule) -> int:
    """Replace each convolution on [N,C,L] by one on [N,C,1,L], and add the axis of images where it is missing.

    Returns the number of convolutions replaced.
    """
    replaced = 0
    for node in list(graph.graph.nodes):
        on_rows = node.target in CONVOLUTIONS
        if not on_rows and (node.target not in CONVOLUTIONS.values() or len(shape_of(node)) == 4):
            continue
        added = [0] * (len(shape_of(node)) == 3 - on_rows) + [2] * on_rows
        source, args = operand(node), list(node.args[1:])
        for axis in added:
            source = insert(graph, node, A.unsqueeze.default, source, axis)
        if on_rows:
            args = _on_one_row(graph, node)
        out = insert(graph, node, CONVOLUTIONS.get(node.target, node.target), source, *args, like=node)
        for axis in reversed(added):
            out = insert(graph, node, A.squeeze.dim, out, axis)
        node.replace_all_uses_with(out)
        replaced += 1
    for node in list(graph.graph.nodes):
        _move_squeeze(graph, node)
    return replaced


def _on_one_row(graph: GraphModule, node: Node) -> list[Argument]:
    """The arguments of a convolution after its input, for an image of one row."""
    kernel = operand(node, 1)
    value = constant(graph, kernel)
    if value is None:
        kernel = insert(graph, node, A.unsqueeze.default, kernel, 2)
    else:
        kernel = add_constant(graph, node, f"{layer_name(node)}.weight", value.unsqueeze(2))
    (stride,), (dilation,) = (integers(argument(node, place, [1])) for place in (3, 5))
    padding = argument(node, 4, [0])
    sides = padding if isinstance(padding, str) else [0, *integers(padding)]
    return [kernel, argument(node, 2), [1, stride], sides, [1, dilation], argument(node, 6, 1)]


def _move_squeeze(graph: GraphModule, node: Node) -> None:
    """Move a squeeze of rows from a node's input to its output, or cancel it."""
    squeeze = node.args[0] if node.args else None
    if not isinstance(squeeze, Node) or squeeze.target is not A.squeeze.dim or squeeze.args[1] != 2:
        return
    rows = operand(squeeze)
    if len(shape_of(rows)) != 4 or shape_of(rows)[2] != 1:
        return
    if node.target is A.unsqueeze.default and node.args[1] == 2:
        node.replace_all_uses_with(rows)
    elif node.target in ON_ROWS:
        inner = insert(graph, node, node.target, rows, *node.args[1:], like=node, **node.kwargs)
        node.replace_all_uses_with(insert(graph, node, A.squeeze.dim, inner, 2))


def give_attention_four_axes(graph: GraphModule) -> int:
    """Compute attention over fewer or more than four axes on four, the only number that torch's export to ONNX takes.

    Returns the number of operations changed.
    """
    changed = 0
    for attention in graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default):
        if len(shape_of(attention)) != 4:
            _reshape(graph, attention)
            changed += 1
    return changed


def _reshape(graph: GraphModule, attention: Node) -> None:
    """Compute one attention on four axes."""
    shape = shape_of(attention)
    masks = attention.args[3:4]
    outer = [1] * (3 - len(shape)) + [math.prod(shape[:-3]), *shape[-3:-2]]

    def reshaped(value: Argument) -> Node | None:
        if value is None:
            return None
        inner = shape_of(value)[-2:]
        if shape_of(value)[:-2] != shape[:-2]:  # it is broadcast
            value = insert(graph, attention, A.expand.default, value, [*shape[:-2], *inner])
        return insert(graph, attention, A.reshape.default, value, [*outer, *inner])

    values = [reshaped(value) for value in attention.args[:4]]
    arguments = (*values, *attention.args[4:])
    output = insert(graph, attention, operation_of(attention), *arguments, like=attention, **attention.kwargs)
    if any(mask is not None for mask in masks):
        # With a mask, torch may choose another kernel each time it is traced, and their outputs differ in strides.
        output = insert(graph, attention, A.clone.default, output, memory_format=torch.contiguous_format)
    attention.replace_all_uses_with(insert(graph, attention, A.reshape.default, output, list(shape)))
    graph.graph.erase_node(attention)  # which dead code elimination keeps, because it might drop values at random


def gather_windows(graph: GraphModule) -> int:
    """Replace each unfold by a gather. LiteRT's converter would pad it in more dimensions than its kernels know.

    Returns the number of operations replaced.
    """
    unfolds = graph.graph.find_nodes(op="call_function", target=A.unfold.default)
    for unfold in unfolds:
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
    return len(unfolds)


def gather_overlaps(graph: GraphModule) -> int:
    """Replace each fold by a gather of the values that overlap at each pixel, and their sum.

    torch decomposes a fold into an addition at computed places, which LiteRT doesn't know. Returns the number of
    operations replaced.
    """
    folds = graph.graph.find_nodes(op="call_function", target=A.col2im.default)
    for fold in folds:
        columns, (height, width), *window = fold.args
        channels = shape_of(fold)[-3]
        # The pixel, counted from 1, to which each value of a channel is added; 0 for the padding.
        pixels = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
        targets = nn.functional.unfold(pixels, *window).flatten().long()
        places = _places(targets, height * width)
        flat = insert(graph, fold, A.reshape.default, columns, [-1, channels, len(targets)])
        padded = insert(graph, fold, A.pad.default, flat, [0, 1])
        index = add_constant(graph, fold, f"{fold.name}.index", places.flatten())
        gathered = insert(graph, fold, A.index_select.default, padded, 2, index)
        overlaps = insert(graph, fold, A.reshape.default, gathered, [-1, channels, *places.shape])
        total = insert(graph, fold, A.sum.dim_IntList, overlaps, [2])
        fold.target, fold.args = A.reshape.default, (total, list(shape_of(fold)))
    return len(folds)


def _places(targets: torch.Tensor, pixels: int) -> torch.Tensor:
    """Places of the values that overlap at each pixel, int64 [most overlaps,pixels].

    `targets`, int64 [values], has the pixel of each value, counted from 1, or 0 for the padding. A pixel with fewer
    values than others gets the place after the last value, where the caller puts a zero.
    """
    counts = torch.bincount(targets)
    values = targets.argsort(stable=True)[counts[0] :]  # in the order of the pixels, without those of the padding
    pixel = targets[values] - 1
    rank = torch.arange(len(values)) - (counts.cumsum(0) - counts[0])[pixel]
    places = torch.full((int(counts[1:].max()), pixels), len(targets))
    places[rank, pixel] = values
    return places


def remove_overwritten(graph: GraphModule) -> int:
    """Replace the result of writing one value over another by the one that was written.

    Returns the number of writes replaced.
    """
    copies = graph.graph.find_nodes(op="call_function", target=A.copy.default)
    for node in copies:
        to, value = node.args[:2]
        if value.meta["val"].dtype != to.meta["val"].dtype:
            value = insert(graph, node, A.to.dtype, value, to.meta["val"].dtype, like=node)
        if shape_of(value) != shape_of(to):
            value = insert(graph, node, A.expand.default, value, list(shape_of(to)), like=node)
        node.replace_all_uses_with(value)
    return len(copies)


def select_by_mask(graph: GraphModule) -> int:
    """Replace ``x[mask] = value`` by `where`, because LiteRT's converter must know the mask in advance.

    Returns the number of writes replaced.
    """
    replaced = 0
    for put in graph.graph.find_nodes(op="call_function", target=A.index_put.default):
        source, indices, value = put.args[:3]
        if len(indices) != 1 or argument(put, 3, False) or value.meta["val"].numel() != 1:
            continue
        (mask,) = indices
        if mask.meta["val"].dtype == torch.bool and shape_of(mask) == shape_of(source):
            put.replace_all_uses_with(insert(graph, put, A.where.self, mask, value, source, like=put))
            replaced += 1
    return replaced


def gather_strided_writes(graph: GraphModule) -> int:
    """Replace ``x[..., ::2] = value`` by a choice from both values, because OpenVINO refuses such writes.

    Returns the number of writes replaced.
    """
    replaced = 0
    for put in graph.graph.find_nodes(op="call_function", target=A.slice_scatter.default):
        places = (argument(put, place) for place in (3, 4, 5))
        start, end, step = (None if place is None else literal(place, int) for place in places)
        if step in (None, 1):
            continue
        to, value, axis = operand(put), operand(put, 1), literal(argument(put, 2, 0), int)
        order = torch.arange(shape_of(to)[axis])
        order[start:end:step] = torch.arange(shape_of(value)[axis]) + len(order)
        both = insert(graph, put, A.cat.default, [to, value], axis)
        chosen = add_constant(graph, put, f"{put.name}.order", order)
        put.replace_all_uses_with(insert(graph, put, A.index_select.default, both, axis, chosen))
        replaced += 1
    return replaced


COPIES = {A.lift_fresh_copy.default, A.contiguous.default, A.clone.default}
"""Operations that do nothing but copy their input, which in a functional graph is the same as their input."""

BROADCASTING = {
    A.add.Tensor,
    A.sub.Tensor,
    A.mul.Tensor,
    A.div.Tensor,
    A.pow.Tensor_Tensor,
    A.maximum.default,
    A.minimum.default,
    A.where.self,
}
"""Operations that expand their operands themselves."""


def remove_assertions(graph: GraphModule) -> int:
    """Remove torch.export's checks of dtypes and devices. Returns the number of checks removed."""
    assertions = graph.graph.find_nodes(op="call_function", target=A._assert_tensor_metadata.default)
    for node in assertions:
        graph.graph.erase_node(node)
    return len(assertions)


def remove_copies(graph: GraphModule) -> int:
    """Remove copies, conversions to the dtype that a value has, and dropout. Returns the number of nodes removed."""
    return _remove(graph, lambda node: node.target in COPIES or is_same(node) or keeps_dtype(node))


def remove_infinite_limits(graph: GraphModule) -> int:
    """Remove each clamp to the range from minus infinity to infinity, as in Gemma before its training.

    Returns the number of clamps removed.
    """

    def clips_nothing(node: Node) -> bool:
        if node.target is not A.clamp.Tensor:
            return False
        limits = constants(graph, *node.args[1:])
        if limits is None or shape_of(node) != shape_of(node.args[0]):
            return False
        lowest, highest = (*limits, None)[:2]
        return (lowest is None or bool((lowest == -torch.inf).all())) and (
            highest is None or bool((highest == torch.inf).all())
        )

    return _remove(graph, clips_nothing)


def remove_empty_paddings(graph: GraphModule) -> int:
    """Remove each padding that adds no pixels, which networks have where its width depends on the size of the image.

    Returns the number of paddings removed.
    """

    def pads_nothing(node: Node) -> bool:
        return node.target is A.pad.default and not any(integers(node.args[1]))

    return _remove(graph, pads_nothing)


def remove_zero_sums(graph: GraphModule) -> int:
    """Remove each sum with the number 0, from which code adds up branches. Returns the number of sums removed."""

    def adds_nothing(node: Node) -> bool:
        if node.target not in (A.add.Tensor, A.sub.Tensor) or isinstance(node.args[1], Node):
            return False
        return bool(node.args[1] == 0) and value_of(node).dtype == value_of(node.args[0]).dtype

    return _remove(graph, adds_nothing)


def remove_zero_branches(graph: GraphModule) -> int:
    """Remove each sum with a product by zeros, as that of a residual branch whose factor training has not changed yet.

    LiteRT's converter drops such a branch, which leaves no place for its INT8 weights. Returns the number of sums
    removed.
    """
    removed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.add.Tensor):
        for branch, other in permutations(node.args):
            same = isinstance(other, Node) and value_of(other).dtype == value_of(node).dtype
            if same and shape_of(other) == shape_of(node) and _is_zero(graph, branch) and not node.kwargs:
                node.replace_all_uses_with(other)
                removed += 1
                break
    return removed


def _is_zero(graph: GraphModule, node: Argument) -> bool:
    """Whether a node multiplies by constants that are all zero."""
    if not isinstance(node, Node) or node.target is not A.mul.Tensor:
        return False
    factors = [constant(graph, factor) for factor in node.args if isinstance(factor, Node)]
    return any(factor is not None and not factor.any() for factor in factors)


def remove_expansions(graph: GraphModule) -> int:
    """Remove each expansion of an operand that is broadcast anyway, as in `torch.nn.functional.normalize`.

    Between convolutions, LiteRT's converter expands along the wrong axes. Returns the number of operands changed.
    """
    changed = 0
    for node in [node for node in graph.graph.nodes if node.target in (A.expand.default, A.expand_as.default)]:
        for user in [user for user in node.users if user.target in BROADCASTING]:
            operands = [operand(node) if argument is node else argument for argument in user.args]
            shapes = [shape_of(argument) for argument in operands if isinstance(argument, Node)]
            if np.broadcast_shapes(*shapes) == shape_of(user):
                user.args = tuple(operands)
                changed += 1
    return changed


def _remove(graph: GraphModule, is_no_op: Callable[[Node], bool]) -> int:
    """Replace the nodes for which `is_no_op` holds by their first input. Returns the number of nodes removed."""
    no_ops = [node for node in graph.graph.nodes if is_no_op(node)]
    for node in no_ops:
        node.replace_all_uses_with(operand(node))
        graph.graph.erase_node(node)
    return len(no_ops)


EQUIVALENT = {
    A.view.default: A.reshape.default,  # which works with any strides, and passes change them
    A._unsafe_view.default: A.reshape.default,
    A.__and__.Tensor: A.bitwise_and.Tensor,
    A.__or__.Tensor: A.bitwise_or.Tensor,
    A.__xor__.Tensor: A.bitwise_xor.Tensor,
}
"""Operations, and others that compute the same of the same arguments."""


def rename_operations(graph: GraphModule) -> int:
    """Replace each operation in `EQUIVALENT`. Returns the number of operations replaced."""
    known = [node for node in graph.graph.nodes if node.target in EQUIVALENT]
    for node in known:
        node.target = EQUIVALENT[node.target]
    return len(known)


def state_shapes(graph: GraphModule) -> int:
    """Replace each reshape to another value's shape, which would be one of its readers, by one to these numbers.

    Returns the number of reshapes replaced.
    """
    nodes = graph.graph.find_nodes(op="call_function", target=A.reshape_as.default)
    for node in nodes:
        node.target, node.args = A.reshape.default, (node.args[0], [*shape_of(node)])
    return len(nodes)


def number_paddings(graph: GraphModule) -> int:
    """Give each convolution with the padding "same" or "valid" its numbers, so that it is a layer like any other.

    Where "same" needs one pixel more on the right or at the bottom, a padding adds it before the convolution. Returns
    the number of convolutions changed.
    """
    convolutions = graph.graph.find_nodes(op="call_function", target=A.conv2d.padding)
    for node in convolutions:
        source, weight = operand(node), operand(node, 1)
        stride, dilation = (list(pair(argument(node, position, 1))) for position in (3, 5))
        same, kernel = argument(node, 4) == "same", shape_of(weight)[2:]
        height, width = (same * step * (size - 1) for step, size in zip(dilation, kernel, strict=True))
        if height % 2 or width % 2:
            source = insert(graph, node, A.pad.default, source, [0, width % 2, 0, height % 2], like=node)
        sides = [height // 2, width // 2]
        node.args = (source, weight, argument(node, 2), stride, sides, dilation, argument(node, 6, 1))
        node.target = A.conv2d.default
    return len(convolutions)


def compare_booleans(graph: GraphModule) -> int:
    """Replace the exclusive or of booleans by "not equal", because LiteRT has no other operation for it.

    Returns the number of operations replaced.
    """
    nodes = graph.graph.find_nodes(op="call_function", target=A.bitwise_xor.Tensor)
    booleans = [node for node in nodes if node.meta["val"].dtype == torch.bool]
    for node in booleans:
        node.target = A.ne.Tensor
    return len(booleans)


def fix_random_slopes(graph: GraphModule) -> int:
    """Replace each RReLU, whose slope is random in training only, by a leaky ReLU of its mean slope.

    Returns the number of operations replaced.
    """
    nodes = graph.graph.find_nodes(op="call_function", target=A.rrelu.default)
    for node in nodes:
        lower, upper = number(argument(node, 1, 1 / 8)), number(argument(node, 2, 1 / 3))
        node.target, node.args = A.leaky_relu.default, (node.args[0], (lower + upper) / 2)
    return len(nodes)


def fix_adaptive_max_pooling(graph: GraphModule) -> int:
    """Replace each adaptive max pooling by a maximum over the image, or by a max pooling with a fixed window.

    It stays if the network reads the places of the maxima, or if the windows would differ in size. Returns the number
    of poolings replaced.
    """
    replaced = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.adaptive_max_pool2d.default):
        if any(user.target is not operator.getitem or (user.args[1] and user.users) for user in pool.users):
            continue
        pooled = _pooled(graph, pool)
        if pooled is None:
            continue
        for values in [user for user in pool.users if not user.args[1]]:
            values.replace_all_uses_with(pooled)
        replaced += 1
    return replaced


def _pooled(graph: GraphModule, pool: Node) -> Node | None:
    """The maxima of an adaptive pooling, inserted before it; None if its windows differ in size."""
    source, to = operand(pool), pair(pool.args[1])
    sides = shape_of(source)[-2:]
    window = [side // parts for side, parts in zip(sides, to, strict=True)]
    if to == (1, 1):
        return insert(graph, pool, A.amax.default, source, [-2, -1], True, like=pool)
    if all(size * parts == side for size, parts, side in zip(window, to, sides, strict=True)):
        return insert(graph, pool, A.max_pool2d.default, source, window, window, like=pool)
    return None


SIMPLIFICATIONS: tuple[Callable[[GraphModule], int], ...] = (
    rename_operations,
    give_convolutions_four_axes,
    number_paddings,
    remove_assertions,
    remove_copies,
    remove_infinite_limits,
    remove_empty_paddings,
    remove_zero_sums,
    remove_expansions,
    compare_booleans,
    fix_random_slopes,
    arithmetic.restore_batch_norms,
    remove_overwritten,
    select_by_mask,
    gather_strided_writes,
    fix_adaptive_max_pooling,
    gather_windows,
    gather_overlaps,
    give_attention_four_axes,
    arithmetic.fold_constants,
    arithmetic.restore_activations,
    arithmetic.products_to_linear,
    arithmetic.separate_biases,
    arithmetic.fold_biases,
    arithmetic.merge_branches,
    state_shapes,
    arithmetic.fold_batch_norms,
    arithmetic.activate_before_concatenations,
    remove_zero_branches,
    arithmetic.fold_numbers,
    arithmetic.fold_hard_sigmoids,
    arithmetic.separate_weights,
)
"""The passes, in the order of application."""


def simplify(graph: GraphModule, folder: Path | None = None) -> GraphModule:
    """Apply `SIMPLIFICATIONS` to a traced graph, in place. Returns the same graph, without unused nodes.

    With a folder, large constants that this and later passes add are in mapped files there.
    """
    if folder is not None:
        keep_constants_in(graph, MappedFiles(folder))
    for apply in SIMPLIFICATIONS:
        apply(graph)
    return refresh(graph)
