"""Rewrites of operations that LiteRT's converter refuses or computes wrongly, in float and in INT8."""

import math
from collections.abc import Iterator, Set
from functools import partial
from operator import getitem, is_not
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constants, insert, replace_layer
from edgekit.compiler.nodes import A, argument, pair, shape_of, value_of
from edgekit.compiler.quantizers import DEQUANTIZE, QUANTIZE

PARTS = {A.slice.Tensor, A.select.int, A.narrow.default, A.index_select.default, getitem}
"""Operations that take a part of a value, among them that of a split."""
SPLITS = {A.chunk.default, A.split.Tensor, A.split_with_sizes.default, A.tensor_split.sections, A.unbind.int}
VIEWS = PARTS | SPLITS | {
    A.reshape.default, A.flatten.using_ints, A.unflatten.int, A.permute.default, A.transpose.int, A.expand.default,
    A.unsqueeze.default, A.squeeze.dim, A.channel_shuffle.default, A.flip.default,
}  # fmt: skip
"""Operations through which LiteRT's converter passes a scale on."""
PRODUCTS = {A.matmul.default, A.bmm.default}
NEARLY_ONE = 1 + 2**-23
"""The float32 next to 1: the converter would remove a product with 1, or make an operation of the limits 0 and 1."""
SMALLEST = 2**-126
"""The smallest normal float32 above 0: the converter would remove a bias of zeros."""


def calls(graph: GraphModule, *targets: Any) -> Iterator[Any]:
    """The nodes that call one of these operations. The caller may insert and erase nodes meanwhile."""
    return (node for node in list(graph.graph.nodes) if node.target in targets)


def source_of(value: Any, views: Set[Any] = VIEWS) -> Any:
    """The node whose values a node only rearranges."""
    while value.target in views:
        value = value.args[0]
    return value


def nearly(graph: GraphModule, before: Node, value: Any) -> Node:
    """Insert the product of a value and `NEARLY_ONE`, which the converter keeps apart from the value."""
    return insert(graph, before, A.mul.Tensor, value, NEARLY_ONE)


def separate(graph: GraphModule, value: Node) -> None:
    """Let all readers of a value read `nearly` the value."""
    product = nearly(graph, value.next, value)
    value.replace_all_uses_with(product, delete_user_cb=partial(is_not, product))


def flatten_single_rows(graph: GraphModule) -> None:
    """Compute each Linear on a single row [1,1,1,C], as after a pooling, on [1,C] and with a bias, in place.

    LiteRT's converter makes a product of matrices of it that its own checks refuse. Without a bias, or with one of
    zeros, it does so on [1,C] too.
    """
    for node in calls(graph, A.linear.default):
        shape = shape_of(node)
        if len(shape) == 4 and math.prod(shape[:3]) == 1:
            source, weight, bias = (*node.args, None)[:3]
            row = insert(graph, node, A.reshape.default, source, [1, shape_of(source)[-1]], like=node)
            if (known := constants(graph, bias)) and (known[0] is None or not known[0].any()):
                bias = add_constant(graph, node, f"{node.name}.bias", torch.full(shape[-1:], SMALLEST))
            flat = insert(graph, node, A.linear.default, row, weight, bias, like=node)
            replace_layer(graph, node, insert(graph, node, A.reshape.default, flat, list(shape), like=node))


def crop_transposed_convolutions(graph: GraphModule) -> None:
    """Replace the paddings of each transposed convolution by cutting its output, in place.

    LiteRT's converter refuses most of them. A padding cuts the output at both ends; an output padding extends it, as
    zeros after the input do.
    """
    for convolution in calls(graph, A.conv_transpose2d.input):
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


def separate_products(graph: GraphModule) -> None:
    """Multiply each product of matrices that a convolution over one row reads by nearly 1, in place.

    LiteRT's converter makes one product of both, of a rank that its own checks refuse.
    """
    products: dict[Node, None] = {}
    for convolution in calls(graph, A.conv1d.default, A.conv2d.default):
        source = source_of(convolution.args[0], VIEWS | {QUANTIZE, DEQUANTIZE})
        if shape_of(convolution)[2:-1] in {(), (1,)} and source.target in PRODUCTS:
            products[source] = None
    for product in products:
        separate(graph, product)


def widen_unit_limits(graph: GraphModule) -> None:
    """Let each clamp from 0 to 1 end at nearly 1, in place.

    The converter would make it an operation that XNNPACK doesn't know, and would split the graph there.
    """
    for clamp in calls(graph, A.clamp.default):
        if clamp.args[1:] == (0.0, 1.0):
            clamp.args = (clamp.args[0], 0.0, NEARLY_ONE)


WORKAROUNDS = (flatten_single_rows, crop_transposed_convolutions, separate_products, widen_unit_limits)
"""Rewrites of float and INT8 graphs, in order. `multiply_expansions` follows those of the scales."""


def multiply_expansions(graph: GraphModule) -> None:
    """Expand each float value of four axes by a product with ones, in place.

    LiteRT's converter loses an axis of length 1 of some values that it computes channels last, and expands another one.
    """
    for node in calls(graph, A.expand.default, A.expand_as.default):
        shape, before = shape_of(node), shape_of(node.args[0])
        if len(shape) == 4 and shape != before and value_of(node).is_floating_point():
            before = (1,) * (4 - len(before)) + before
            added = [new if new != old else 1 for new, old in zip(shape, before, strict=True)]
            ones = add_constant(graph, node, f"{node.name}.ones", torch.ones(added))
            replace_layer(graph, node, insert(graph, node, A.mul.Tensor, node.args[0], ones))
