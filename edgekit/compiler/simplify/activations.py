"""Gives each activation one operation, however a network spells it, and folds numbers after a layer into its weights.

A spelling is recognized by what it computes in float64 at `POINTS`, not by its operations. So the order of factors
doesn't matter, nor whether a constant is a number or a tensor with one element, as in ONNX files.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import constant, insert, weight_of
from edgekit.compiler.layers import DenseLayer, dense_layer, scale_output
from edgekit.compiler.nodes import A, Operation, operand, operation_of, shape_of

Call: TypeAlias = tuple[Operation, tuple[Any, ...], dict[str, Any]]
"""An operation, its arguments after the first, and its options."""

FAR = 1e30
POINTS = torch.tensor(
    [-FAR, -1e4, -100, -20, *(step / 100 for step in range(-1200, 1201)), 20, 100, 1e4, FAR], dtype=torch.float64
)
"""Values at which functions are compared, float64 in ascending order."""

ACTIVATIONS: tuple[Call, ...] = (
    (A.hardswish.default, (), {}),
    (A.hardsigmoid.default, (), {}),
    (A.silu.default, (), {}),
    (A.gelu.default, (), {}),
    (A.gelu.default, (), {"approximate": "tanh"}),
    (A.mish.default, (), {}),
    (A.sigmoid.default, (), {}),
)
"""Activations without numbers. Others limit a value to a range: relu and clamp."""

LONGEST = 16
"""The most operations of a spelling."""


class _Function(NamedTuple):
    """A function of each element of a value, and the nodes that compute it."""

    source: Node
    """The node whose value it reads."""
    nodes: tuple[Node, ...]
    """The nodes that compute it, the last one first. Nothing else reads the values of the others."""
    values: Tensor
    """Its values at `POINTS`, float64."""


@torch.no_grad()
def restore_activations(graph: GraphModule) -> int:
    """Replace each spelling of an activation by its operation, in place.

    Values may differ by the rounding of a spelling's constants: at most by 1e-5, or by 1e-5 of the value. Returns the
    number of activations replaced.
    """
    replaced = 0
    for end in reversed(list(graph.graph.nodes)):
        matches = [(function, call) for function in _functions(graph, end) if (call := _activation(function.values))]
        if not matches:
            continue
        function, (target, args, options) = matches[-1]  # the one of the most nodes
        if len(function.nodes) == 1 and (end.target, str(end.args[1:])) == (target, str(args)):
            continue  # torch's export to ONNX refuses a clamp from 0 to 1.0, but not from 0.0
        _replace(graph, function.nodes, insert(graph, end, target, function.source, *args, like=end, **options))
        replaced += 1
    return replaced


@torch.no_grad()
def fold_numbers(graph: GraphModule) -> int:
    """Fold products and sums with numbers into the weights of the layer before them, if nothing else reads it.

    Returns the number of layers changed.
    """
    folded = 0
    for end in reversed(list(graph.graph.nodes)):
        for function in _functions(graph, end):
            layer, line = dense_layer(function.source), _line(function.values)
            if layer is None or line is None or not layer.node.users.keys() <= set(function.nodes):
                continue
            if _scale(graph, layer, *line):
                _replace(graph, function.nodes, layer.node)
                folded += 1
    return folded


@torch.no_grad()
def fold_hard_sigmoids(graph: GraphModule) -> int:
    """Replace each hard sigmoid after a layer that nothing else reads by a clamp from 0 to 1, in place.

    The weights get its slope. Integer kernels apply a clamp while they requantize. Returns the number of hard sigmoids.
    """
    folded = 0
    for gate in graph.graph.find_nodes(op="call_function", target=A.hardsigmoid.default):
        layer = dense_layer(operand(gate))
        if layer is not None and len(layer.node.users) == 1 and _scale(graph, layer, 1 / 6, 1 / 2):
            _replace(graph, [gate], insert(graph, gate, A.clamp.default, layer.node, 0.0, 1.0, like=gate))
            folded += 1
    return folded


def _scale(graph: GraphModule, layer: DenseLayer, factor: float, shift: float) -> bool:
    channels = shape_of(layer.weight)[:1]
    shifts = torch.full(channels, shift).double() if shift else None
    return scale_output(graph, layer, torch.full(channels, factor).double(), shifts)


def _replace(graph: GraphModule, nodes: Sequence[Node], new: Node) -> None:
    nodes[0].replace_all_uses_with(new)
    for node in nodes:
        graph.graph.erase_node(node)


def _functions(graph: GraphModule, end: Node) -> Iterator[_Function]:
    """The functions that end with a node, from that of the node alone to that of the most nodes."""
    nodes: list[Node] = []
    inputs = {end}
    while len(nodes) < LONGEST:
        last = max(inputs)  # in the order of the graph
        read = _elementwise_inputs(graph, last, end)
        if not read or not last.users or (nodes and not last.users.keys() <= set(nodes)):
            return
        nodes.append(last)
        inputs = inputs - {last} | read
        if len(inputs) == 1:
            (source,) = inputs
            yield _Function(source, tuple(nodes), _values(graph, source, nodes))


def _elementwise_inputs(graph: GraphModule, node: Node, like: Node) -> set[Node]:
    """The inputs of an operation on each element that aren't numbers; none for other operations.

    All must have the shape and the type of `like`.
    """
    tags = getattr(node.target, "tags", ())
    elementwise = torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags
    if node.op != "call_function" or not (elementwise or node.target is A.hardswish.default):
        return set()
    inputs = {value for value in node.all_input_nodes if not _is_number(graph, value)}
    return inputs if all(_kind(value) == _kind(like) for value in (node, *inputs)) else set()


def _is_number(graph: GraphModule, node: Node) -> bool:
    value = constant(graph, node)
    return value is not None and value.numel() == 1


def _kind(node: Node) -> tuple[Any, ...]:
    value: Any = node.meta.get("val")
    return (value.shape, value.dtype) if isinstance(value, Tensor) and value.is_floating_point() else (node,)


def _values(graph: GraphModule, source: Node, nodes: Sequence[Node]) -> Tensor:
    """The values of a function at `POINTS`, from its nodes, the last one first."""
    values = {source: POINTS}

    def value_of(node: Node) -> Tensor:
        if node not in values:
            values[node] = weight_of(graph, node).double().reshape(())
        return values[node]

    for node in reversed(nodes):
        values[node] = operation_of(node)(*map_arg(node.args, value_of), **map_arg(node.kwargs, value_of))
    return values[nodes[0]]


def _activation(values: Tensor) -> Call | None:
    """The activation that has these values at `POINTS`, or None."""
    for call, expected in zip(ACTIVATIONS, _expected(), strict=True):
        if _is_close(values, expected):
            return call
    low, high = (None if abs(end) > FAR / 2 else float(end) + 0.0 for end in values[[0, -1]])
    if low is high is None or not _is_close(values, POINTS.clamp(low, high)):
        return None
    return (A.relu.default, (), {}) if (low, high) == (0, None) else (A.clamp.default, (low, high), {})


def _line(values: Tensor) -> tuple[float, float] | None:
    """The factor and the shift of a straight line that has these values at `POINTS`, or None."""
    ends = POINTS.abs().argsort()[[0, 1]]
    (x0, x1), (y0, y1) = POINTS[ends].tolist(), values[ends].tolist()
    factor = (y1 - y0) / (x1 - x0)
    shift = y0 - factor * x0
    return (factor, shift) if factor and _is_close(values, factor * POINTS + shift) else None


@cache
def _expected() -> list[Tensor]:
    return [target(POINTS, *args, **options) for target, args, options in ACTIVATIONS]


def _is_close(values: Tensor, expected: Tensor) -> bool:
    return torch.allclose(values, expected, rtol=1e-5, atol=1e-5)
