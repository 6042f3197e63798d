"""Exported graphs of ATen operations: the export, the nodes and their constants.

A graph is a `GraphModule` at batch 1. At any moment, each node except the output has a fake tensor in
``node.meta["val"]``, from which rewrites read its shape and dtype. `set_values` computes them in a graph that a library
made; `insert` and `add_constant` do so for the nodes that they make.

The export is functional. torch.export keeps blocks with their own setting of autocast or gradients, and operations that
write into their input, such as `relu_` and `x[:, 0] += 1`. Passes move, replace and remove nodes as if no node changed
another's value, so blocks become their nodes, and operations that write become ones that return the result.

Constants are in memory or in mapped files. A network of billions of weights is rewritten several times on the way to
INT8, and each rewrite makes new weights. In mapped files, all of them are page cache, which the system writes out and
drops when memory is short.
"""

import copy
import operator
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_arg
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from edgekit.compiler.torch_compat import (
    WRAPPERS,
    compiled,
    fake_tensors,
    is_mutable,
    lazily_compiled,
    out_of_place,
    shared_argument,
    weights_only_loads,
)
from edgekit.support.files import writing

A = torch.ops.aten
Q = torch.ops.quantized_decomposed

T = TypeVar("T")
Operation: TypeAlias = Callable[..., Any]
"""An operation that a node calls."""
VIEWS = {A.reshape.default, A.permute.default, A.unsqueeze.default, A.squeeze.dim, A.expand.default}
"""Operations that arrange values, of which a parameter remains a constant."""


def without_views(node: Node) -> Node:
    """The node of which this one is nothing but views."""
    while node.target in VIEWS:
        node = operand(node)
    return node


def is_view_of_constant(node: Argument) -> bool:
    """Whether a node is a parameter, or nothing but views of one."""
    return isinstance(node, Node) and without_views(node).op == "get_attr"


def node_of(argument: Argument) -> Node:
    """An argument that must be a node. Raises TypeError for any other."""
    if not isinstance(argument, Node):
        raise TypeError(f"expected a node of the graph, not {argument!r}")
    return argument


def literal(argument: Argument, kind: type[T]) -> T:
    """An argument that must be a literal of this type. Raises TypeError for any other."""
    if not isinstance(argument, kind):
        raise TypeError(f"expected {kind.__name__}, not {argument!r}")
    return argument


def number(argument: Argument) -> float:
    """An argument that must be a number. Raises TypeError for any other."""
    return float(argument) if isinstance(argument, int) else literal(argument, float)


def integers(argument: Argument) -> list[int]:
    """An argument that must be a list or tuple of integers. Raises TypeError for any other."""
    if not isinstance(argument, list | tuple):
        raise TypeError(f"expected a list of integers, not {argument!r}")
    return [literal(item, int) for item in argument]


def axes_of(permute: Node) -> list[int]:
    """For each axis of a permute's output, the axis of its input."""
    axes = integers(permute.args[1])
    return [axis % len(axes) for axis in axes]


def pair(argument: Argument) -> tuple[int, int]:
    """A pair that ATen gives as n, [n] or [n, m]."""
    items = [argument] if isinstance(argument, int) else integers(argument)
    return (items[0], items[-1])


def argument(node: Node, position: int, default: Argument = None) -> Argument:
    """The argument at a position, or the operation's default, which a graph may leave out."""
    return node.args[position] if len(node.args) > position else default


def operand(node: Node, position: int = 0) -> Node:
    """The node at a position among a node's arguments. Raises TypeError if a literal is there."""
    return node_of(node.args[position])


def operation_of(node: Node) -> Operation:
    """The operation that a node calls. Raises TypeError for a node that calls none."""
    if not callable(node.target):
        raise TypeError(f"expected a call of an operation, not {node.format_node()}")
    return node.target


def value_of(node: Argument) -> Tensor:
    """The fake tensor of a node, which has a shape and a dtype."""
    return literal(node_of(node).meta["val"], Tensor)


def shape_of(node: Argument) -> tuple[int, ...]:
    """The shape of a node's value."""
    return tuple(value_of(node).shape)


def layer_name(node: Node) -> str:
    """Dotted path of the module that the node came from, as in the network's state dict."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return str(path) or node.name


def is_padding(node: Argument) -> bool:
    """Whether a node pads height and width with zeros for a single convolution, whose kernel can do the padding."""
    if not isinstance(node, Node) or node.target is not A.pad.default:
        return False
    if len(integers(node.args[1])) > 4 or argument(node, 3):
        return False
    zeros = argument(node, 2, "constant") == "constant"
    return zeros and [user.target for user in node.users] == [A.conv2d.default]


def behind_views(node: Node) -> Node:
    """If `node` starts the reshape and permute that feed rows [N,H*W,C] into a convolution as [N,C,H,W], that layer.

    Otherwise the node itself.
    """
    shape = node.args[1] if node.target is A.reshape.default else None
    if isinstance(shape, list | tuple) and len(shape) == 4:
        permutes = list(node.users)
        if [(p.target, *p.args[1:]) for p in permutes] == [(A.permute.default, [0, 3, 1, 2])]:
            users = list(permutes[0].users)
            if [user.target for user in users] == [A.conv2d.default]:
                return users[0]
    return node


LARGE_BYTES = 1 << 20
"""Size from which a constant gets a file."""
_STORE = "edgekit_constants"
"""Key of a graph's store in its `meta`, which copies of the graph share."""


class ConstantStore(Protocol):
    """Keeps the constants that passes add to a graph."""

    def keep(self, value: Tensor) -> Tensor:
        """A contiguous copy of a constant. Raises OutputError if a disk is full."""
        ...


@dataclass(frozen=True)
class ConstantsInMemory:
    """Keeps constants in memory."""

    def keep(self, value: Tensor) -> Tensor:
        """A contiguous copy of a constant."""
        return value.detach().clone().contiguous()


@dataclass(frozen=True)
class MappedFiles:
    """Keeps large constants in mapped files in a folder.

    The files have no names, so that their space is free as soon as their tensors are, even if the process is killed.
    """

    folder: Path

    def keep(self, value: Tensor) -> Tensor:
        """A contiguous copy of a constant, mapped if it is large. Raises OutputError if the disk is full."""
        value = value.detach()
        if value.nbytes < LARGE_BYTES:
            return MEMORY.keep(value)
        with writing(self.folder), tempfile.NamedTemporaryFile(dir=self.folder) as file:
            value.contiguous().flatten().view(torch.uint8).numpy().tofile(file)
            file.flush()
            write_out(file.fileno())
            return torch.from_file(file.name, size=value.numel(), dtype=value.dtype).view(value.shape)


MEMORY = ConstantsInMemory()


def keep_constants_in(graph: GraphModule, store: ConstantStore) -> None:
    """Choose the store for the constants that passes add to this graph, and to copies of it."""
    graph.meta[_STORE] = store


def store_of(graph: GraphModule) -> ConstantStore:
    """The store of a graph's constants: memory, unless `keep_constants_in` chose another one."""
    store: ConstantStore = graph.meta.get(_STORE, MEMORY)
    return store


def write_out(file: int) -> None:
    """Begin to write the pages of an open file to the disk, because the system can drop only written ones."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


M = TypeVar("M", bound=nn.Module)


def copy_sharing(module: M) -> M:
    """A deep copy that shares the module's tensors, so changes to the copy must replace tensors, not write to them.

    Memory may not have room for two copies of a network with billions of weights.
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def refresh(graph: GraphModule) -> GraphModule:
    """Remove unused nodes and tensors, and recompile. Returns the same graph."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in {**dict(graph.named_parameters()), **dict(graph.named_buffers())}.keys() - used:
        _delete(graph, name)
    graph.recompile()
    return graph


def set_values(graph: GraphModule) -> GraphModule:
    """Compute every node's fake tensor from that of the graph's input. Returns the same graph."""
    FakeTensorProp(graph, fake_tensors()).propagate(example_input(graph))
    return graph


def write_graph(graph: GraphModule, example: Tensor, path: Path) -> None:
    """Write a graph to a file for `read_graph`."""
    with torch.no_grad():
        torch.export.save(torch.export.export(compiled(graph), (example,)), path)


def read_graph(path: Path) -> GraphModule:
    """Load a graph that `write_graph` wrote, with weights_only=True. torch raises almost anything on a damaged file."""
    with weights_only_loads():
        return set_values(lazily_compiled(torch.export.load(path).module(check_guards=False)))


def set_value(graph: GraphModule, node: Node) -> None:
    """Compute the fake tensor of a constant, or of a call from those of its arguments."""
    mode = placeholder_of(graph).meta["val"].fake_mode
    if node.op == "get_attr":
        node.meta["val"] = mode.from_tensor(weight_of(graph, node))
        return
    with mode, torch.no_grad():
        node.meta["val"] = operation_of(node)(*map_arg(node.args, _value), **map_arg(node.kwargs, _value))


def example_input(graph: GraphModule) -> Tensor:
    """Zeros in the shape and dtype of the graph's input."""
    value = value_of(placeholder_of(graph))
    return torch.zeros(value.shape, dtype=value.dtype)


def placeholder_of(graph: GraphModule) -> Node:
    """The node of the graph's input."""
    placeholder: Node
    (placeholder,) = graph.graph.find_nodes(op="placeholder")
    return placeholder


def constant(graph: GraphModule, node: Node) -> Tensor | None:
    """The constant value of `node` (a parameter, or views of one), or None if it depends on the input.

    `constants` reads operands that may be absent, such as a bias.
    """
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        value = getattr(graph.get_submodule(path), name)
        return value.detach() if isinstance(value, Tensor) else None
    if node.target in VIEWS:
        inner = constant(graph, operand(node))
        return None if inner is None else operation_of(node)(inner, *node.args[1:], **node.kwargs)
    return None


def constants(graph: GraphModule, *operands: Argument) -> tuple[Tensor | None, ...] | None:
    """The constant value of each operand, None for one that is absent; or None alone if any depends on the input."""
    values = tuple(constant(graph, value) if isinstance(value, Node) else None for value in operands)
    known = all(value is not None or given is None for value, given in zip(values, operands, strict=True))
    return values if known else None


def weight_of(graph: GraphModule, node: Argument) -> Tensor:
    """The constant value of a node that must have one. Raises TypeError if it depends on the input."""
    value = constant(graph, node) if isinstance(node, Node) else None
    if value is None:
        raise TypeError(f"expected a constant of the graph, not {node!r}")
    return value


def add_constant(graph: GraphModule, before: Node, name: str, value: Tensor) -> Node:
    """Insert a get_attr node for a copy of `value` before `before`. A suffix makes the name unique."""
    base = "rw_" + name.replace(".", "_")
    attribute = base
    count = 0
    while hasattr(graph, attribute):
        count += 1
        attribute = f"{base}_{count}"
    graph.register_buffer(attribute, store_of(graph).keep(value))
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(attribute)
    set_value(graph, node)
    return node


def replace_layer(graph: GraphModule, old: Node, new: Node) -> None:
    """Replace a conv or linear node by `new`, and delete the weights that only `old` used."""
    args = old.args
    old.replace_all_uses_with(new)
    graph.graph.erase_node(old)
    drop_constants(graph, args)


def drop_constants(graph: GraphModule, args: Sequence[Argument]) -> None:
    """Delete unused constants among these arguments, which frees their memory before a pass makes the next ones."""
    for node in args:
        if isinstance(node, Node) and node.op == "get_attr" and not node.users:
            graph.graph.erase_node(node)
            if not graph.graph.find_nodes(op="get_attr", target=node.target):
                _delete(graph, str(node.target))


def _delete(graph: GraphModule, name: str) -> None:
    path, _, last = name.rpartition(".")
    delattr(graph.get_submodule(path), last)


def insert(
    graph: GraphModule, before: Node, target: Operation, *args: Argument, like: Node | None = None, **kwargs: Argument
) -> Node:
    """Insert a call of `target` before `before`. It gets the module path of `like`, so that layers keep their names."""
    with graph.graph.inserting_before(before):
        node = graph.graph.call_function(target, args, kwargs)
    set_value(graph, node)
    if like is not None and "nn_module_stack" in like.meta:
        node.meta["nn_module_stack"] = like.meta["nn_module_stack"]
    return node


def inserter(graph: GraphModule, node: Node) -> Callable[..., Node]:
    """`insert` before a node and with its module path, for the calls that replace it."""
    return partial(insert, graph, node, like=node)


def replace_each(graph: GraphModule, targets: Collection[Operation], new: Callable[[Node], Node | None]) -> int:
    """Replace each call of these operations by the node that `new` inserts for it, or leave it if that returns None.

    Returns the number of calls replaced.
    """
    replaced = 0
    for node in [node for node in graph.graph.nodes if node.target in targets]:
        replacement = new(node)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            replaced += 1
    return replaced


def insert_layer(
    graph: GraphModule, before: Node, target: Operation, source: Node, weight: Tensor, bias: Tensor | None
) -> Node:
    """Insert a convolution or linear layer in place of the layer `before`, whose name it and its constants get."""
    name = layer_name(before)
    constants = [
        None if value is None else add_constant(graph, before, f"{name}.{part}", value)
        for part, value in (("weight", weight), ("bias", bias))
    ]
    return insert(graph, before, target, source, *constants, like=before)


def set_weights(graph: GraphModule, node: Node, weight: Tensor, bias: Tensor | None) -> None:
    """Give a conv or linear node new weights. Other nodes that share the old weights keep them."""
    name = layer_name(node)
    args = list(node.args) + [None] * (3 - len(node.args))
    args[1] = add_constant(graph, node, f"{name}.weight", weight)
    args[2] = None if bias is None else add_constant(graph, node, f"{name}.bias", bias)
    old, node.args = node.args, tuple(args)
    drop_constants(graph, old)


def set_bias(graph: GraphModule, node: Node, name: str, bias: Tensor) -> None:
    """Give a conv or linear node another bias, as a constant with this name. Nodes that share the old one keep it."""
    old = node.args
    node.args = (*old[:2], add_constant(graph, node, name, bias), *old[3:])
    drop_constants(graph, old[2:3])


def _value(node: Node) -> Argument:
    value: Argument = node.meta["val"]  # a tensor, or several
    return value


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
