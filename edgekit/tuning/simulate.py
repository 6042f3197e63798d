"""Run a graph with Q/DQ in torch, with the Q/DQ of each layer on or off: one calibration serves every mixture."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import A, Q, argument, constant, has_int8_weights, is_padding, layer_name
from edgekit.compiler.quantize.placement import ACTIVATIONS, TABLES, without_activation
from edgekit.config.recipes import TargetRecipe

QUANTIZE = (Q.quantize_per_tensor.default, Q.quantize_per_channel.default)
DEQUANTIZE = (Q.dequantize_per_tensor.default, Q.dequantize_per_channel.default)
PASSING = (A.add.Tensor, A.max_pool2d.default)
"""Operations besides layers that `Placement` may quantize from INT8 to INT8."""


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

    def __init__(self, graph: GraphModule, wants: TargetRecipe, unrounded: GraphModule | None = None) -> None:
        self._graph, self._wants, self._unrounded = graph, wants, unrounded or graph
        self._nodes: list[Node] = list(graph.graph.nodes)
        self._layer_of: dict[Node, str] = {}
        for node in filter(has_int8_weights, self._nodes):
            self._layer_of |= dict.fromkeys(filter(is_padding, node.all_input_nodes), layer_name(node))
            self._layer_of[node] = layer_name(node)
        self._first: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            if node in self._layer_of:
                self._first.setdefault(self._layer_of[node], index)

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
            elif node.op != "get_attr" and node.target not in (*QUANTIZE, *DEQUANTIZE):
                args, kwargs = self._arguments(node, values, active)
                values[node] = self._function(node)(*args, **kwargs)
        ((logits,),) = self._arguments(self._nodes[-1], values, active)[0]
        return Run(logits[0].numpy(), active, values)

    def _function(self, node: Node) -> Callable[..., Any]:
        """The callable of a node: an operation, or a module that NNCF inserted, for example to smooth."""
        return self._graph.get_submodule(str(node.target)) if node.op == "call_module" else cast(Any, node.target)

    def _arguments(self, node: Node, values: dict[Node, Any], active: frozenset[str]) -> Any:
        """Positional and keyword arguments of a node, with the current values."""

        def value(origin: Node) -> Any:
            if origin.op == "get_attr" or origin in self._weights:
                return self._weights[origin][self._layer_of.get(node) in active]
            if origin.target not in DEQUANTIZE:
                return values[origin]
            quantize: Any = origin.args[0]
            source = quantize.args[0]
            plain = self._weights[source][0] if source.op == "get_attr" else values[source]
            if not self._is_on(node, source, active):
                return plain
            if origin not in values:
                levels = quantize.target(plain, *quantize.args[1:])
                values[origin] = origin.target(levels, *origin.args[1:], **origin.kwargs)
            return values[origin]

        return map_arg(node.args, value), map_arg(node.kwargs, value)

    def _is_on(self, user: Node, source: Any, active: frozenset[str]) -> bool:
        """Whether the Q/DQ between `source` and `user` is on, because one of the two needs it."""
        wanted = self._layer_of.get(user) in active or not active.isdisjoint(self._passing.get(user, ()))
        made = self._wants.quantize_outputs and self._maker.get(source) in active
        return wanted or made or not active.isdisjoint(self._passing.get(without_activation(source), ()))

    @cached_property
    def _maker(self) -> dict[Node, str]:
        """The layer whose integer kernel writes a node's value: for the layer itself, its activation and its table."""
        makers = {}
        for node, name in self._layer_of.items():
            makers[node] = name
            makers |= {user: name for user in node.users if user.target in ACTIVATIONS}
        for node in self._nodes:
            behind: Any = node.args[0] if node.target in TABLES else None
            if behind is not None and behind.target in DEQUANTIZE and behind.args[0].args[0] in makers:
                makers[node] = makers[behind.args[0].args[0]]
        return makers

    @cached_property
    def _passing(self) -> dict[Node, set[str]]:
        """For each residual sum and max pooling from INT8 to INT8, the layers before it. One in INT8 suffices."""
        makers_of: dict[Node, set[str]] = {}
        if not self._wants.quantize_residuals:
            return makers_of
        for node in (node for node in self._nodes if node.target in PASSING):
            values: list[Any] = node.all_input_nodes
            if all(value.target in DEQUANTIZE for value in values):
                makers = {self._maker.get(value.args[0].args[0]) for value in values}
                makers_of[node] = {name for name in makers if name is not None}
        return makers_of

    @cached_property
    def _weights(self) -> dict[Node, tuple[Any, Any]]:
        """For each constant, its value where its layer is in float, and where it is in INT8."""
        weights: dict[Node, tuple[Any, Any]] = {}
        originals = {node.name: node for node in self._unrounded.graph.nodes}
        for node in self._nodes:
            if node.op == "get_attr":
                value = constant(self._graph, node)
                weights[node] = value, value
            elif node.target is Q.dequantize_per_channel.default:
                source, scale, zero, *rest = node.args[0].args  # type: ignore[union-attr]
                plain, scales, zeros = (constant(self._graph, item) for item in (source, scale, zero))
                levels = Q.quantize_per_channel.default(plain, scales, zeros, *rest)
                original: Any = originals[node.name]
                float_ = constant(self._unrounded, original.args[0].args[0])
                weights[node] = float_, Q.dequantize_per_channel.default(levels, scales, zeros, *rest)
            elif has_int8_weights(node) and argument(node, 2, None) is not None:
                bias: Any = node.args[2]
                original = originals[node.name]
                weights[bias] = constant(self._unrounded, original.args[2]), constant(self._graph, bias)
        return weights
