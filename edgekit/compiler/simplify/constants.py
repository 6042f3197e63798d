"""Computes the parts of an exported graph that don't depend on the image, once, when the network is exported."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import add_constant, constant, is_view_of_constant, layer_name, operation_of
from edgekit.compiler.layers import dense_layer, dense_layers


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
