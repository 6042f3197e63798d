"""Turns products with constant matrices into linear layers, which run in INT8."""

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, add_constant, constant, insert, layer_name, node_of, operand, shape_of


@torch.no_grad()
def products_to_linear(graph: GraphModule) -> int:
    """Replace each product `x @ weight`, and its form as an einsum, by a linear layer.

    The other operand may have any number of axes. Returns the number of products replaced.
    """
    replaced = 0
    for node in list(graph.graph.nodes):
        if node.target in (A.matmul.default, A.mm.default):
            linear = _linear(graph, node, operand(node), operand(node, 1), transposed=True)
        elif node.target is A.einsum.default:
            linear = _linear_of_einsum(graph, node)
        else:
            continue
        if linear is not None:
            node.replace_all_uses_with(linear)
            replaced += 1
    return replaced


def _linear(graph: GraphModule, node: Node, x: Node, matrix: Node, transposed: bool) -> Node | None:
    """A linear layer with a matrix [out,in], or [in,out] if it is transposed; None if that is no constant matrix."""
    weight = constant(graph, matrix)
    if weight is None or weight.ndim != 2 or len(shape_of(x)) < 2 or constant(graph, x) is not None:
        return None
    kept = add_constant(graph, node, f"{layer_name(node)}.weight", (weight.T if transposed else weight).contiguous())
    return insert(graph, node, A.linear.default, x, kept, like=node)


def _linear_of_einsum(graph: GraphModule, node: Node) -> Node | None:
    """The linear layer that an einsum of a value and a matrix is, between permutes; None for other sums."""
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    if not isinstance(operands, list | tuple) or len(operands) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.split("->")
    of_x, of_matrix = inputs.split(",")
    x, matrix = (node_of(value) for value in operands)
    if len(set(of_x)) < len(of_x) or len(of_matrix) != 2 or of_matrix[0] == of_matrix[1]:
        return None
    into, out = sorted(of_matrix, key=of_x.__contains__, reverse=True)
    if set(output) != {*of_x, out} - {into} or into not in of_x or out in of_x or into in output:
        return None
    before, after = of_x.replace(into, "") + into, of_x.replace(into, "") + out
    if constant(graph, matrix) is None or constant(graph, x) is not None:
        return None
    last = insert(graph, node, A.permute.default, x, [of_x.index(letter) for letter in before])
    linear = _linear(graph, node, last, matrix, transposed=of_matrix[0] == into)
    order = [after.index(letter) for letter in output]
    return None if linear is None else insert(graph, node, A.permute.default, linear, order)
