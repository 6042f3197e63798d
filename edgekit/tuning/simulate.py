"""Run a graph with Q/DQ in torch, with the Q/DQ of each layer on or off: one calibration serves every mixture."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import constant
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers
from edgekit.compiler.nodes import operation_of
from edgekit.compiler.quantizers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    QUANTIZATIONS,
    int8_weight,
    owners_of,
    quantizer_of,
)


@dataclass(frozen=True, eq=False)
class Run:
    """The result of running one image through the graph with some layers in INT8."""

    logits: NDArray[np.float32]
    """Logits of the image, [classes]."""
    quantized: frozenset[str]
    """Names of the layers in INT8."""
    values: Mapping[Node, Any]
    """Output of every node, which other mixtures reuse up to the first layer that differs."""


class Simulation:
    """A graph that `quantize` returned, with a switch for each layer.

    A layer that is off uses its float input and weights, and doesn't cause its output to be quantized. The network is
    then the one that `quantize` returns with this layer among the recipe's `float_layers`. If GPTQ or the fit changed
    weights, `unrounded` is the same graph with the original ones. The fit of the other layers stays as it is.
    """

    def __init__(self, graph: GraphModule, unrounded: GraphModule | None = None) -> None:
        self._graph = graph
        self._nodes: list[Node] = list(graph.graph.nodes)
        self._layers = {layer.node: layer for layer in dense_layers(graph) if int8_weight(layer.node) is not None}
        self._int8 = _int8_constants(graph, self._layers.values())
        self._float = self._int8 | _float_constants(unrounded or graph, self._layers.values())
        self._first: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            for value in node.all_input_nodes:
                if value.target in (DEQUANTIZE, DEQUANTIZE_CHANNELS):
                    for name in sorted(owners_of(value)):
                        self._first.setdefault(name, index)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that have a switch, in the graph's order."""
        return tuple(self._first)

    @torch.no_grad()
    def run(self, image: NDArray[np.float32], quantized: Collection[str], like: Run | None = None) -> Run:
        """Run one image float32 [1,C,H,W] with these layers in INT8.

        `like` is an earlier run of the same image, whose values are reused up to the first layer that differs.
        """
        active, start = frozenset(quantized), 0
        values: dict[Node, Any] = {}
        if like is not None:
            start = min((self._first[name] for name in active ^ like.quantized), default=len(self._nodes) - 1)
            values = {node: like.values[node] for node in self._nodes[:start] if node in like.values}
        for node in self._nodes[start:-1]:
            if node.op == "placeholder":
                values[node] = torch.from_numpy(image)
            elif node.op != "get_attr" and node.target not in QUANTIZATIONS:
                args, kwargs = self._arguments(node, values, active)
                values[node] = self._function(node)(*args, **kwargs)
        ((logits,),) = self._arguments(self._nodes[-1], values, active)[0]
        return Run(logits[0].numpy(), active, values)

    def _function(self, node: Node) -> Callable[..., Any]:
        """The callable of a node: an operation, or a module that NNCF inserted, for example to smooth."""
        return self._graph.get_submodule(str(node.target)) if node.op == "call_module" else operation_of(node)

    def _arguments(self, node: Node, values: dict[Node, Any], active: frozenset[str]) -> Any:
        """Positional and keyword arguments of a node, with the current values."""
        layer = self._layers.get(node)
        constants = self._int8 if layer is not None and layer.name in active else self._float

        def value(origin: Node) -> Any:
            if origin in constants:
                return constants[origin]
            quantizer = quantizer_of(origin)
            if quantizer is None:
                return values[origin]
            plain = self._float[quantizer.source] if quantizer.source in self._float else values[quantizer.source]
            if owners_of(origin).isdisjoint(active):
                return plain
            if origin not in values:
                levels = operation_of(quantizer.node)(plain, *quantizer.grid)
                values[origin] = operation_of(origin)(levels, *quantizer.grid, **origin.kwargs)
            return values[origin]

        return map_arg(node.args, value), map_arg(node.kwargs, value)


def _int8_constants(graph: GraphModule, layers: Collection[DenseLayer]) -> dict[Node, Tensor | None]:
    """Values of the constants of a graph, and of the weights of its layers between INT8 and float."""
    values = {node: constant(graph, node) for node in graph.graph.nodes if node.op == "get_attr"}
    for layer in layers:
        quantizer = int8_weight(layer.node)
        assert quantizer is not None
        values[layer.weight] = quantizer.rounded(graph)
    return values


def _float_constants(unrounded: GraphModule, layers: Collection[DenseLayer]) -> dict[Node, Tensor | None]:
    """Original weights and biases of the layers, from the graph that has nodes of the same names."""
    originals = {node.name: node for node in unrounded.graph.nodes}
    values: dict[Node, Tensor | None] = {}
    for layer in layers:
        original, quantizer = dense_layer(originals[layer.node.name]), int8_weight(originals[layer.node.name])
        assert original is not None
        assert quantizer is not None
        values[layer.weight] = constant(unrounded, quantizer.source)
        if layer.bias is not None and original.bias is not None:
            values[layer.bias] = constant(unrounded, original.bias)
    return values
