"""Computes the parts of an exported graph that don't depend on the image, once, when the network is exported."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import add_constant, constant, is_view_of_constant, layer_name, operation_of


@torch.no_grad()
def fold_constants(graph: GraphModule) -> int:
    """Replace each value that is computed from weights alone by a constant, in place. Returns the number of values.

    Examples are standardized weights, position embeddings that are resized to the image, and biases of relative
    positions. Runtimes would compute them for each image or refuse them, and weights could not be quantized. Views of a
    weight stay.
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
        if (
            is_view_of_constant(node)
            or not isinstance(values[node], Tensor)
            or all(user in values for user in node.users)
        ):
            continue
        folded_node = add_constant(graph, node, f"{layer_name(node)}.{node.name}", values[node])
        node.replace_all_uses_with(folded_node)
        folded += 1
    graph.graph.eliminate_dead_code()
    return folded


def _is_fixed(node: Node, values: dict[Node, Any]) -> bool:
    if node.op != "call_function" or not all(value in values for value in node.all_input_nodes):
        return False
    return not node.is_impure() and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
