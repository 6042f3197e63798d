"""The fake runtime's quirk: INT8 graphs may compute GELU by tanh, which no other runtime has in this form."""

from torch.fx import GraphModule

from edgekit.compiler.nodes import A
from edgekit.compiler.quantize.lowering import Lowering, RuntimeLowering


def gelu_by_tanh(graph: GraphModule) -> int:
    """Let each GELU use the approximation by tanh. Returns their number."""
    nodes = graph.graph.find_nodes(op="call_function", target=A.gelu.default)
    for node in nodes:
        node.kwargs = {"approximate": "tanh"}
    graph.recompile()
    return len(nodes)


LOWERING = RuntimeLowering(
    named={"tanh": Lowering("GELU is computed by tanh.", rewrite=gelu_by_tanh, scheme="GELU by tanh")}
)
