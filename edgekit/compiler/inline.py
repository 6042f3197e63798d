"""Inlines the blocks that a network runs with its own setting of autocast or gradients."""

import operator
from collections.abc import Mapping, Sequence

from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compat.torch import WRAPPERS
from edgekit.compiler.graph import literal, node_of, operand


def inline_wrapped(graph: GraphModule) -> int:
    """Replace each subgraph that torch.export made of an autocast or no_grad block by its nodes; returns how many.

    A graph of edgekit has no gradients and computes in float32, so the settings change nothing. An enabled autocast
    stays.
    """
    inlined = 0
    for node in list(graph.graph.nodes):
        position = WRAPPERS.get(node.target) if node.op == "call_function" else None
        if position is None or _is_autocast_enabled(node, position):
            continue
        inner = graph.get_submodule(str(operand(node, position).target))
        assert isinstance(inner, GraphModule)
        _replace(graph, node, inner, node.args[position + 1 :])
        inlined += 1
    return inlined


def _is_autocast_enabled(node: Node, position: int) -> bool:
    return position > 1 and bool(node.args[2])


def _replace(graph: GraphModule, node: Node, inner: GraphModule, operands: Sequence[Argument]) -> None:
    inputs = inner.graph.find_nodes(op="placeholder")
    copied: dict[Node, Node] = dict(zip(inputs, map(node_of, operands), strict=True))
    with graph.graph.inserting_before(node):
        outputs = graph.graph.graph_copy(inner.graph, copied)
    assert isinstance(outputs, list | tuple)
    _reuse_metadata(copied)
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(node_of(outputs[literal(user.args[1], int)]))
        graph.graph.erase_node(user)
    graph.graph.erase_node(node)


def _reuse_metadata(copied: Mapping[Node, Node]) -> None:
    for old, new in copied.items():
        if old.op == "call_function":
            new.meta = dict(old.meta)
