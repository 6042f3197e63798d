"""Runs a Q/DQ graph image by image, and quantizes its weights once."""

from typing import Any

from torch.fx import GraphModule, Interpreter, Node

from edgekit.compiler.graph import Q

CACHED_BYTES = 1 << 28
"""Memory for cached weights."""


class CachedWeightInterpreter(Interpreter):
    """Runs a Q/DQ graph and caches its fake-quantized weights, in the graph's order up to `CACHED_BYTES`.

    It looks up each constant once, too, which for small networks takes as long as their largest layers. Outputs equal
    those of the graph. Weights that change after the first run need a new interpreter.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self._cached: dict[Node, Any] = {}
        self._left = CACHED_BYTES

    def run_node(self, n: Node) -> Any:
        if n in self._cached:
            return self._cached[n]
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = getattr(self, n.op)(n.target, args, kwargs)  # without torch's notes for tracing
        if n.op == "get_attr":
            self._cached[n] = value
        elif n.target is Q.dequantize_per_channel.default and value.nbytes <= self._left:
            self._left -= value.nbytes
            self._cached[n] = value
            (quantizer,) = n.all_input_nodes[:1]
            if len(quantizer.users) == 1:
                self._cached[quantizer] = None  # no other node needs its value
        return value
