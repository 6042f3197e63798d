"""Divides the outputs of a Q/DQ graph in the weights of its last layer, which costs nothing at run time."""

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import set_bias
from edgekit.compiler.layers import DenseLayer, dense_layer, scale_output
from edgekit.compiler.nodes import operand, shape_of
from edgekit.compiler.quantize.qdq_rewrites import REARRANGEMENTS
from edgekit.compiler.quantizers import QUANTIZE, Quantizer, layer_weights, quantizer_of, set_grid, set_int8_weights


@torch.no_grad()
def divide_outputs(graph: GraphModule, temperature: float) -> bool:
    """Divide the outputs of a graph by a temperature, in place; the levels of INT8 weights stay the same.

    Returns False and changes nothing unless the outputs come from one layer whose weights no other layer uses.
    """
    layer, behind = last_layer(graph)
    if layer is None:
        return False
    if (weights := layer_weights(graph, layer)) is None:
        if not scale_output(graph, layer, torch.full(shape_of(layer.weight)[:1], 1 / temperature, dtype=torch.float64)):
            return False
    else:
        set_int8_weights(graph, layer.node, weights.weight / temperature, weights.scale / temperature)
        if weights.bias is not None:
            set_bias(graph, layer.node, f"{layer.node.name}.bias", weights.bias / temperature)
    for quantizer in behind:
        set_grid(quantizer, (quantizer.scale / temperature, *quantizer.grid[1:]))
    graph.recompile()
    return True


def last_layer(graph: GraphModule) -> tuple[DenseLayer | None, list[Quantizer]]:
    """The layer whose outputs are those of the graph, None if there is none, and the quantizers behind it."""
    (output,) = graph.graph.find_nodes(op="output")
    (node,) = output.all_input_nodes
    behind: list[Quantizer] = []
    while len(node.users) == 1:
        if (layer := dense_layer(node)) is not None:
            return (layer if len(layer.weight.users) == 1 else None), behind
        quantizer = quantizer_of(node)
        if quantizer is None and node.target not in REARRANGEMENTS:
            break
        if quantizer is not None and node.target is QUANTIZE:
            behind.append(quantizer)
        node = operand(node)
    return None, []
