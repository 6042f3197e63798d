"""Gives layers constant weights and biases, with which integer kernels compute."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_arg

from edgekit.compiler.graph import add_constant, constant, insert, replace_each, set_bias
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers, fixed_weights
from edgekit.compiler.nodes import A, is_view_of_constant, layer_name, node_of, operand, operation_of, shape_of


@torch.no_grad()
def fold_constants(graph: GraphModule) -> int:
    """Replace each value that is computed from weights alone by a constant, in place. Returns the number of values.

    Examples are standardized weights, position embeddings that are resized to the image, and biases of relative
    positions. Runtimes would compute them for each image or refuse them, and weights could not be quantized. Views of a
    weight stay, except where they are the weight or the bias of a layer.
    """
    values: dict[Node, Any] = {}
    folded = 0
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            value = constant(graph, node)
            if value is not None:
                values[node] = value
        elif _is_fixed(node, values):
            values[node] = operation_of(node)(*map_arg(node.args, values.get), **map_arg(node.kwargs, values.get))
    for node in [node for node in values if node.op == "call_function"]:
        readers = {user for user in node.users if user not in values}
        if is_view_of_constant(node):
            readers = {user for user in readers if dense_layer(user) is not None and node in user.args[1:3]}
        if not readers or not isinstance(values[node], Tensor):
            continue
        folded_node = add_constant(graph, node, f"{layer_name(node)}.{node.name}", values[node])
        node.replace_all_uses_with(folded_node, delete_user_cb=readers.__contains__)
        folded += 1
    graph.graph.eliminate_dead_code()
    return folded


def separate_weights(graph: GraphModule) -> int:
    """Give each call of a convolution or linear layer separate nodes for a weight and a bias that it shares.

    NNCF would quantize the weight for one of the calls alone. Returns the number of nodes added.
    """
    added = 0
    for layer in dense_layers(graph):
        for shared in (layer.weight, layer.bias):
            if shared is not None and shared.op == "get_attr" and len(shared.users) > 1:
                with graph.graph.inserting_before(layer.node):
                    own = graph.graph.get_attr(str(shared.target))
                own.meta = dict(shared.meta)
                layer.node.replace_input_with(shared, own)
                added += 1
    return added


def _is_fixed(node: Node, values: dict[Node, Any]) -> bool:
    if node.op != "call_function" or not all(value in values for value in node.all_input_nodes):
        return False
    return not node.is_impure() and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


@torch.no_grad()
def products_to_linear(graph: GraphModule) -> int:
    """Replace each product `x @ weight`, and its form as an einsum, by a linear layer.

    The other operand may have any number of axes. Returns the number of products replaced.
    """

    def linear(product: Node) -> Node | None:
        if product.target is A.einsum.default:
            return _linear_of_einsum(graph, product)
        return _linear(graph, product, operand(product), operand(product, 1), transposed=True)

    return replace_each(graph, {A.matmul.default, A.mm.default, A.einsum.default}, linear)


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


@torch.no_grad()
def separate_biases(graph: GraphModule) -> int:
    """Add each bias that depends on the image after its layer instead. Returns the number of biases separated."""
    separated = 0
    for layer in dense_layers(graph):
        node, bias = layer.node, layer.bias
        if bias is None or constant(graph, bias) is not None:
            continue
        after = node.next
        each = insert(graph, after, A.reshape.default, bias, [-1, 1, 1], like=node) if layer.is_conv else bias
        total = insert(graph, after, A.add.Tensor, node, each, like=node)
        node.replace_all_uses_with(total)
        total.args = (node, each)
        node.args = (*node.args[:2], None, *node.args[3:])
        separated += 1
    return separated


@torch.no_grad()
def fold_biases(graph: GraphModule) -> int:
    """Fold each constant per channel that is added to a layer's only use into its bias, as files of Paddle need it.

    Returns the number of sums folded.
    """

    def folded(total: Node) -> Node | None:
        for value, added in () if total.kwargs else (total.args, total.args[::-1]):
            layer = dense_layer(value)
            weights = fixed_weights(graph, layer) if layer is not None else None
            if layer is None or weights is None or len(layer.node.users) != 1:
                continue
            shift = _per_channel(graph, layer, added)
            if shift is not None:
                bias = shift if weights.bias is None else weights.bias + shift
                set_bias(graph, layer.node, f"{layer.name}.bias", bias)
                return layer.node
        return None

    return replace_each(graph, {A.add.Tensor}, folded)


def _per_channel(graph: GraphModule, layer: DenseLayer, added: Argument) -> Tensor | None:
    """A constant [C] for each output channel of a layer, if it broadcasts so; None for other values."""
    value = constant(graph, added) if isinstance(added, Node) else None
    if value is None:
        return None
    shape = [1] * len(shape_of(layer.node))
    shape[layer.channel_axis] = shape_of(layer.node)[layer.channel_axis]
    return value.flatten() if [1] * (len(shape) - value.ndim) + list(value.shape) == shape else None
