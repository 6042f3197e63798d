"""Helpers for passes over an exported graph.

A graph of `edgekit.compiler.export` is a `GraphModule` of ATen operations at batch 1. At any moment, each node except
the output has a fake tensor in ``node.meta["val"]``, from which rewrites read its shape and dtype. `set_values`
computes them in a graph that a library made; `insert` and `add_constant` do so for the nodes that they make.
"""

import copy
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_arg
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from edgekit.compat.torch import fake_tensors
from edgekit.compiler.constant_store import store_of
from edgekit.compiler.nodes import CONSTANT_VIEWS, Operation, layer_name, operand, operation_of, shape_of

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


def set_value(graph: GraphModule, node: Node) -> None:
    """Compute the fake tensor of a constant, or of a call from those of its arguments."""
    mode = _placeholder(graph).meta["val"].fake_mode
    if node.op == "get_attr":
        node.meta["val"] = mode.from_tensor(weight_of(graph, node))
        return
    with mode, torch.no_grad():
        node.meta["val"] = operation_of(node)(*map_arg(node.args, _value), **map_arg(node.kwargs, _value))


def example_input(graph: GraphModule) -> Tensor:
    """Zeros, float32, in the shape of the graph's input."""
    return torch.zeros(shape_of(_placeholder(graph)))


def _placeholder(graph: GraphModule) -> Node:
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
    if node.target in CONSTANT_VIEWS:
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
