"""Lowering for LiteRT's converter: rewrites that work around it, and the lowerings that a recipe may name."""

import math
from collections.abc import Callable, Sequence, Set
from functools import partial
from operator import getitem, is_not
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    insert,
    number,
    operand,
    pair,
    replace_layer,
    shape_of,
    value_of,
)
from edgekit.compiler.quantize.runtime_lowering import Lowering, RuntimeLowering
from edgekit.compiler.quantizers import DEQUANTIZE, QUANTIZE, Grid, Quantizer, quantizer_of, quantizers

PARTS = {A.slice.Tensor, A.select.int, A.narrow.default, A.index_select.default, getitem}
"""Operations that take a part of a value, among them that of a split."""
SPLITS = {A.chunk.default, A.split.Tensor, A.split_with_sizes.default, A.tensor_split.sections, A.unbind.int}
VIEWS = PARTS | SPLITS | {
    A.reshape.default, A.flatten.using_ints, A.unflatten.int, A.permute.default, A.transpose.int, A.expand.default,
    A.unsqueeze.default, A.squeeze.dim, A.channel_shuffle.default, A.flip.default,
}  # fmt: skip
"""Operations through which LiteRT's converter passes a scale on."""
JOINS = {A.cat.default, A.maximum.default, A.minimum.default, A.where.self}
"""Operations whose inputs and output have one scale in LiteRT."""
AVERAGES = {A.avg_pool1d.default, A.avg_pool2d.default}
POOLINGS = AVERAGES | {A.max_pool2d.default, A.amax.default, A.amin.default}
"""Poolings whose input and output have one scale in LiteRT."""
PRODUCTS = {A.matmul.default, A.bmm.default}
NEARLY_ONE = 1 + 2**-23
"""The float32 next to 1: the converter would remove a product with 1."""


@torch.no_grad()
def decompose_hard_swish(graph: GraphModule) -> int:
    """Replace HardSwish by x / 6 * clamp(x + 3, 0, 6), in place. Returns the number of operations replaced.

    The order of the factors matters: LiteRT's converter recognizes the usual clamp(x + 3, 0, 6) * x / 6, and fuses it
    into HardSwish again.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.hardswish.default):
        x = node.args[0]
        gate = insert(graph, node, A.clamp.default, insert(graph, node, A.add.Tensor, x, 3.0), 0.0, 6.0)
        sixth = insert(graph, node, A.mul.Tensor, x, 1 / 6)
        replace_layer(graph, node, insert(graph, node, A.mul.Tensor, sixth, gate))
        changed += 1
    graph.recompile()
    return changed


def flatten_single_rows(graph: GraphModule) -> int:
    """Compute each Linear on a single row [1,1,1,C], as after a pooling, on [1,C], in place; returns their number.

    LiteRT's converter makes a product of matrices of it that its own checks refuse.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.linear.default):
        shape = shape_of(node)
        if len(shape) != 4 or math.prod(shape[:3]) != 1:
            continue
        row = insert(graph, node, A.reshape.default, node.args[0], [1, shape_of(node.args[0])[-1]], like=node)
        flat = insert(graph, node, A.linear.default, row, *node.args[1:], like=node)
        node.replace_all_uses_with(insert(graph, node, A.reshape.default, flat, list(shape), like=node))
        graph.graph.erase_node(node)
        changed += 1
    graph.recompile()
    return changed


def separate_products(graph: GraphModule) -> int:
    """Multiply each product of matrices that a convolution over one row reads by nearly 1, in place.

    LiteRT's converter makes one product of both, of a rank that its own checks refuse. Returns their number.
    """
    products: dict[Node, None] = {}
    for target in (A.conv1d.default, A.conv2d.default):
        for convolution in graph.graph.find_nodes(op="call_function", target=target):
            source = _source(convolution.args[0], VIEWS | {QUANTIZE, DEQUANTIZE})
            if shape_of(convolution)[2:-1] in {(), (1,)} and source.target in PRODUCTS:
                products[source] = None
    for product in products:
        after = insert(graph, product.next, A.mul.Tensor, product, NEARLY_ONE)
        product.replace_all_uses_with(after, delete_user_cb=partial(is_not, after))
    graph.recompile()
    return len(products)


def crop_transposed_convolutions(graph: GraphModule) -> int:
    """Replace the paddings of each transposed convolution by cutting its output, in place. Returns their number.

    LiteRT's converter refuses most of them. A padding cuts the output at both ends; an output padding extends it, as
    zeros after the input do.
    """
    changed = 0
    for convolution in graph.graph.find_nodes(op="call_function", target=A.conv_transpose2d.input):
        stride, padding, extra = (
            pair(argument(convolution, place, default)) for place, default in ((3, 1), (4, 0), (5, 0))
        )
        if padding == extra == (0, 0):
            continue
        height, width = (
            max(0, math.ceil((more - cut) / step)) for more, cut, step in zip(extra, padding, stride, strict=True)
        )
        padded = insert(graph, convolution, A.pad.default, convolution.args[0], [0, width, 0, height])
        args = (padded, *convolution.args[1:4], [0, 0], [0, 0], *convolution.args[6:])
        part = insert(graph, convolution, A.conv_transpose2d.input, *args, like=convolution)
        for axis, (start, size) in enumerate(zip(padding, shape_of(convolution)[2:], strict=True), 2):
            part = insert(graph, convolution, A.slice.Tensor, part, axis, start, start + size)
        replace_layer(graph, convolution, part)
        changed += 1
    graph.recompile()
    return changed


def multiply_expansions(graph: GraphModule) -> int:
    """Expand each float value of four axes by a product with ones, in place; returns their number.

    LiteRT's converter loses an axis of length 1 of some values that it computes channels last, and expands another one.
    """
    changed = 0
    for target in (A.expand.default, A.expand_as.default):
        for node in graph.graph.find_nodes(op="call_function", target=target):
            shape, before = shape_of(node), shape_of(node.args[0])
            if len(shape) != 4 or shape == before or not value_of(node).is_floating_point():
                continue
            before = (1,) * (4 - len(before)) + before
            added = [new if new != old else 1 for new, old in zip(shape, before, strict=True)]
            ones = add_constant(graph, node, f"{node.name}.ones", torch.ones(added))
            replace_layer(graph, node, insert(graph, node, A.mul.Tensor, node.args[0], ones))
            changed += 1
    graph.recompile()
    return changed


def separate_poolings(graph: GraphModule) -> int:
    """Keep the ranges of float values whose pooling is quantized, in place. Returns how many poolings it changed.

    LiteRT's converter moves the quantizer before the pooling, where it clips: averages have a narrower range, and
    others may read the value. The results of these poolings are multiplied by nearly 1.
    """
    changed = 0
    for pool in [node for node in graph.graph.nodes if node.target in POOLINGS]:
        source = operand(pool)
        if _quantizer_behind(source) is not None or not _is_quantized(pool):
            continue
        if pool.target in AVERAGES or len(source.users) > 1:
            after = insert(graph, pool.next, A.mul.Tensor, pool, NEARLY_ONE)
            pool.replace_all_uses_with(after, delete_user_cb=partial(is_not, after))
            changed += 1
    graph.recompile()
    return changed


def requantize_paddings(graph: GraphModule) -> int:
    """Put Q/DQ between the padding and the averaging of each int8 average pooling, in place. Returns their number.

    The values don't change. LiteRT's converter would move the quantizer after the pooling, whose range is narrower,
    to its input, where it clips.
    """
    changed = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.avg_pool2d.default):
        padded = _explicit_padding(graph, pool)
        quantizer = quantizer_of(padded.args[0]) if padded.target is A.pad.default else None
        if quantizer is None:
            continue
        pool.args = (_insert_quantizer(graph, pool, padded, quantizer.grid), *pool.args[1:])
        changed += 1
    graph.recompile()
    return changed


def _explicit_padding(graph: GraphModule, pool: Node) -> Node:
    """Split the padding that an average pooling counts from the pooling; return the pooling's input."""
    source: Node = pool.args[0]  # type: ignore[assignment]
    height, width = pair(argument(pool, 3, 0))
    rounded_up, counted, divisor = (
        argument(pool, place, default) for place, default in ((4, False), (5, True), (6, None))
    )
    if (height, width) == (0, 0) or rounded_up or not counted or divisor:
        return source
    padded = insert(graph, pool, A.pad.default, source, [width, width, height, height])
    pool.args = (padded, *pool.args[1:3])
    return padded


def concatenate_stacks(graph: GraphModule) -> int:
    """Replace each stack by a concatenation of values with one more axis, in place. Returns their number.

    LiteRT's converter does the same, but only after `separate_joins`.
    """
    changed = 0
    for stack in graph.graph.find_nodes(op="call_function", target=A.stack.default):
        axis = argument(stack, 1, 0)
        parts = [insert(graph, stack, A.unsqueeze.default, value, axis) for value in stack.args[0]]
        replace_layer(graph, stack, insert(graph, stack, A.cat.default, parts, axis))
        changed += 1
    graph.recompile()
    return changed


def spell_out_branches(graph: GraphModule) -> int:
    """Replace Softplus, ELU and CELU by the choice between two branches that they are, in place. Returns their number.

    LiteRT's converter does the same, but only after `separate_joins`.
    """
    changed = 0
    for target, branches in BRANCHES.items():
        for node in graph.graph.find_nodes(op="call_function", target=target):
            call = partial(insert, graph, node)
            replace_layer(graph, node, call(A.where.self, *branches(call, node)))
            changed += 1
    graph.recompile()
    return changed


def _softplus(call: Callable[..., Node], node: Node) -> tuple[Node, Node, Node]:
    x, beta, threshold = operand(node), number(argument(node, 1, 1)), number(argument(node, 2, 20))
    scaled = x if beta == 1 else call(A.mul.Tensor, x, beta)
    soft = call(A.log1p.default, call(A.exp.default, scaled))
    return call(A.gt.Scalar, scaled, threshold), x, soft if beta == 1 else call(A.div.Tensor, soft, beta)


def _elu(call: Callable[..., Node], node: Node) -> tuple[Node, Node, Node]:
    x, (alpha, scale, input_scale) = operand(node), (number(argument(node, place, 1)) for place in (1, 2, 3))
    if node.target is A.celu.default:
        input_scale = 1 / alpha
    below = call(A.expm1.default, x if input_scale == 1 else call(A.mul.Tensor, x, input_scale))
    above = x if scale == 1 else call(A.mul.Tensor, x, scale)
    return call(A.gt.Scalar, x, 0), above, call(A.mul.Tensor, below, alpha * scale)


BRANCHES = {A.softplus.default: _softplus, A.elu.default: _elu, A.celu.default: _elu}
"""Activations of two branches, and the arguments of `where` that compute them."""


def separate_joins(graph: GraphModule) -> int:
    """Keep the ranges of the inputs of each operation in `JOINS`, in place. Returns how many operations it changed.

    LiteRT's converter would give all inputs the scale of one of them or of the output and clip the others, such as the
    class token: the signal-to-noise ratio of pit_ti_224 was 12 instead of 26 dB. If all inputs are int8, so becomes the
    output, with the range that one of its readers gives it, or that of all inputs. Otherwise the int8 inputs are
    multiplied by nearly 1, unless each reader quantizes the output. If one does, so are float inputs that other
    operations read: `maximum(x, 0.2 * x)` would multiply a clipped x.
    """
    changed = 0
    for join in [node for node in graph.graph.nodes if node.target in JOINS]:
        found = {value: _quantizer_behind(value) for value in _joined(join)}
        int8 = {value: quantizer for value, quantizer in found.items() if quantizer is not None}
        ranges = [quantizer for user in join.users if user.target is QUANTIZE and (quantizer := quantizer_of(user))]
        has_range = len(ranges) == len(join.users)
        if not has_range and len(int8) == len(found):
            grid = ranges[0].grid if ranges else _common_grid([*int8.values()])
            again = _insert_quantizer(graph, join.next, join, grid)
            join.replace_all_uses_with(again, delete_user_cb=lambda user, again=again: user is not again.args[0])
            changed += 1
            continue
        clipped = [] if has_range else [*int8]
        if _is_quantized(join):
            clipped += [value for value in found if value not in int8 and len(value.users) > 1]
        for value in clipped:
            join.replace_input_with(value, insert(graph, join, A.mul.Tensor, value, NEARLY_ONE))
        changed += bool(clipped)
    graph.recompile()
    return changed


def _is_quantized(value: Node) -> bool:
    """Whether a value, or what joins and views make of it, is quantized."""
    return any(
        user.target is QUANTIZE or (user.target in JOINS | VIEWS and _is_quantized(user)) for user in value.users
    )


def _joined(join: Node) -> Sequence[Any]:
    """The values that an operation in `JOINS` joins."""
    values: Any = join.args[-2:] if isinstance(join.args[0], Node) else join.args[0]
    return [value for value in values if isinstance(value, Node)]


def separate_quantizers(graph: GraphModule) -> int:
    """Keep the converter from moving quantizers to where they do harm, in place. Returns how many it changed.

    LiteRT's converter moves a quantizer to the value that the views before it rearrange. If that is a softmax, it takes
    an INT8 kernel, which refuses every range except [0, 1). If a view takes a part of the value, all other parts, such
    as the class token, are clipped to the range of this one: coat_lite_tiny had 6 instead of 16 dB.
    """
    changed = 0
    for quantizer in quantizers(graph):
        node, value = quantizer.node, quantizer.source
        source = _source(value)
        if source.target is A.softmax.int or (source.target is not DEQUANTIZE and _takes_a_part(value)):
            node.args = (insert(graph, node, A.mul.Tensor, value, NEARLY_ONE), *node.args[1:])
            changed += 1
    graph.recompile()
    return changed


def _takes_a_part(value: Any) -> bool:
    """Whether the views that make a value leave out a part of their source that others read."""
    while value.target in VIEWS:
        view, value = value, value.args[0]
        if view.target in PARTS and len(value.users) > 1:
            return True
    return False


def _insert_quantizer(graph: GraphModule, before: Node, value: Node, grid: Grid) -> Node:
    """Insert Q/DQ of a value before a node; return the DQ."""
    return insert(graph, before, DEQUANTIZE, insert(graph, before, QUANTIZE, value, *grid), *grid)


def _quantizer_behind(value: Any) -> Quantizer | None:
    """The quantizer of a value, if the value is only rearranged after that; else None."""
    source = _source(value)
    return quantizer_of(source) if source.target is DEQUANTIZE else None


def _source(value: Any, views: Set[Any] = VIEWS) -> Any:
    """The node whose values a node only rearranges."""
    while value.target in views:
        value = value.args[0]
    return value


def _common_grid(int8: Sequence[Quantizer]) -> Grid:
    """The grid that represents the values of all these quantizers."""
    lows, highs = zip(*(quantizer.representable_range for quantizer in int8), strict=True)
    low, high, first = min(lows), max(highs), int8[0]
    scale = (high - low) / (first.high - first.low)
    return scale, round(first.low - low / scale), first.low, first.high, first.dtype


LOWERING = RuntimeLowering(
    named={
        "float-hard-swish": Lowering(
            "HardSwish between INT8 layers is a product in float, for processors where LiteRT's INT8 kernel is slow.",
            rewrite=decompose_hard_swish,
        )
    }
)
"""Lowerings of LiteRT, for quantization."""
