"""Estimates of the work to run the nodes of a graph, by which progress is reported.

The unit is a multiply-accumulate of a float layer on one core, or whatever else takes as long.
"""

from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.layers import layers

NODE = 1.5e6
"""Work to run a node, however small its value."""
VALUE = 30
"""Work for each element of a node's value."""


def node_work(graph: GraphModule) -> dict[Node, float]:
    """Work of each node for one image: 0 for the output, and for what doesn't depend on the image."""
    macs = {node: layer.macs for node, layer in layers(graph)}
    work: dict[Node, float] = {}
    depending: set[Node] = set()
    for node in graph.graph.nodes:
        work[node] = 0.0
        if node.op == "output":
            continue
        if node.op == "placeholder" or not depending.isdisjoint(node.all_input_nodes):
            depending.add(node)
            value = node.meta.get("val")
            work[node] = NODE + macs.get(node, 0) + VALUE * (value.numel() if isinstance(value, Tensor) else 0)
    return work
