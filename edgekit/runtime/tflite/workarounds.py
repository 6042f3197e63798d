"""Rewrites of operations that LiteRT's converter refuses or computes wrongly, in float and in INT8."""

import math

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, add_constant, argument, insert, pair, replace_layer, shape_of, value_of
from edgekit.compiler.quantizers import DEQUANTIZE, QUANTIZE
from edgekit.runtime.tflite.views import VIEWS, multiply_by_nearly_one, source_of

PRODUCTS = {A.matmul.default, A.bmm.default}


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
            source = source_of(convolution.args[0], VIEWS | {QUANTIZE, DEQUANTIZE})
            if shape_of(convolution)[2:-1] in {(), (1,)} and source.target in PRODUCTS:
                products[source] = None
    for product in products:
        multiply_by_nearly_one(graph, product)
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
