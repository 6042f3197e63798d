"""Exports a network as a functional graph of ATen operations.

torch.export keeps blocks with their own setting of autocast or gradients, and operations that write into their input,
such as `relu_` and `x[:, 0] += 1`. Passes move, replace and remove nodes as if no node changed another's value, so
blocks become their nodes, and operations that write become ones that return the result.
"""

import operator
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compat.torch import WRAPPERS, is_mutable, lazily_compiled, out_of_place, shared_argument
from edgekit.compiler.graph import copy_sharing, set_values
from edgekit.compiler.nodes import A, literal, node_of, operand, value_of


def trace(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The functional graph that torch.export makes of `module`, for float32 inputs of `shape` [1,C,H,W].

    It shares the tensors of the module, which is not changed. Exceptions of the module's own code are not caught.
    """
    example = torch.zeros(tuple(shape))
    return functional_graph(torch.export.export(copy_sharing(module).eval(), (example,)))


SAME = {A.alias.default, A.detach.default}
"""Operations that return their input itself."""
DROPOUTS = {A.dropout.default, A.feature_dropout.default, A.alpha_dropout.default, A.feature_alpha_dropout.default}
"""Operations that return their input itself unless they are told to train."""


def functional_graph(program: ExportedProgram) -> GraphModule:
    """The graph of an exported program, with fake tensors and without operations that write into their input."""
    graph = _module_of(program)
    if not write_out_of_place(graph):
        # torch's own functionalization traces everything again, and has other forms of some operations.
        graph = _module_of(program.run_decompositions({}))
    return graph


def _module_of(program: ExportedProgram) -> GraphModule:
    graph = lazily_compiled(program.module(check_guards=False))
    inline_wrapped(graph)
    return set_values(graph)


def write_out_of_place(graph: GraphModule) -> bool:
    """Replace each operation that writes into its input by the one that returns the result, in place.

    Returns False, with some of them replaced, if a later node reads what was written through another view, as in
    ``x[:, 0] += 1``. Nodes that return their input itself are removed, because they would be such views.
    """
    memory: dict[Node, Node] = {}  # for each node, the one whose memory its value is in
    for node in list(graph.graph.nodes):
        if is_same(node):
            node.replace_all_uses_with(operand(node))
            graph.graph.erase_node(node)
            continue
        memory[node] = node
        if not is_mutable(node.target):
            viewed = shared_argument(node.target, node.args)
            memory[node] = memory[viewed] if isinstance(viewed, Node) else node
            continue
        operation, written = out_of_place(node.target), node.args[0]
        if operation is None or _is_read_elsewhere(node, written, memory):
            return False
        written.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user > node)
        node.target = operation
    return True


def is_same(node: Node) -> bool:
    """Whether a node returns its input itself, not a copy."""
    if node.target in DROPOUTS:
        return not node.args[2]
    if node.target is A.contiguous.default:
        return len(node.args) == 1 and not node.kwargs and value_of(node.args[0]).is_contiguous()
    return node.target in SAME or (keeps_dtype(node) and len(node.args) == 2 and not node.kwargs)


def keeps_dtype(node: Node) -> bool:
    """Whether a node converts a value to the type that it has."""
    return node.target is A.to.dtype and value_of(node.args[0]).dtype == node.args[1]


def _is_read_elsewhere(write: Node, written: Node, memory: dict[Node, Node]) -> bool:
    """Whether a node after a write reads the same memory, but not through the node that is written to."""
    views = (node for node, owner in memory.items() if owner is memory[written] and node not in (written, write))
    return any(user > write for view in views for user in view.users)


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
