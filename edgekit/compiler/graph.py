"""Helpers for passes over an exported graph.

A graph of `edgekit.compiler.export` is a `GraphModule` of ATen operations at batch 1. At any moment, each node except
the output has a fake tensor in ``node.meta["val"]``, from which rewrites read its shape and dtype. `set_values`
computes them in a graph that a library made; `insert` and `add_constant` do so for the nodes that they make.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_arg
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from edgekit.compat.torch import fake_tensors
from edgekit.compiler.constant_files import stored

A = torch.ops.aten
Q = torch.ops.quantized_decomposed

M = TypeVar("M", bound=nn.Module)

CONSTANT_VIEWS = {A.reshape.default, A.permute.default, A.unsqueeze.default, A.expand.default}


@dataclass(frozen=True)
class Layer:
    """An operation that multiplies and accumulates, and can therefore run in integer kernels."""

    name: str
    op: str
    """Kind of the operation: "conv", "depthwise", "linear" or "matmul"."""
    macs: int


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


def example_input(graph: GraphModule) -> Tensor:
    """Zeros, float32, in the shape of the graph's input."""
    return torch.zeros(shape_of(_placeholder(graph)))


def _placeholder(graph: GraphModule) -> Node:
    placeholder: Node
    (placeholder,) = graph.graph.find_nodes(op="placeholder")
    return placeholder


def constant(graph: GraphModule, node: Any) -> Tensor | None:
    """The constant value of `node` (a parameter, or views of one), or None if it depends on the input."""
    if not isinstance(node, Node):
        return None
    if node.op == "get_attr":
        value: Any = graph
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value.detach() if isinstance(value, Tensor) else None
    if node.target in CONSTANT_VIEWS:
        inner = constant(graph, node.args[0])
        return None if inner is None else node.target(inner, *node.args[1:], **node.kwargs)
    return None


def is_view_of_constant(node: Any) -> bool:
    """Whether a node is a parameter, or nothing but views of one."""
    while isinstance(node, Node) and node.target in CONSTANT_VIEWS:
        node = node.args[0]
    return isinstance(node, Node) and node.op == "get_attr"


def add_constant(graph: GraphModule, before: Node, name: str, value: Tensor) -> Node:
    """Insert a get_attr node for a copy of `value` before `before`. A suffix makes the name unique."""
    base = "rw_" + name.replace(".", "_")
    attribute = base
    count = 0
    while hasattr(graph, attribute):
        count += 1
        attribute = f"{base}_{count}"
    graph.register_buffer(attribute, stored(value))
    with graph.graph.inserting_before(before):
        node = graph.graph.get_attr(attribute)
    node.meta["val"] = _placeholder(graph).meta["val"].fake_mode.from_tensor(getattr(graph, attribute))
    return node


def replace_layer(graph: GraphModule, old: Node, new: Node) -> None:
    """Replace a conv or linear node by `new`, and delete the weights that only `old` used."""
    args = old.args
    old.replace_all_uses_with(new)
    graph.graph.erase_node(old)
    drop_constants(graph, args)


def drop_constants(graph: GraphModule, args: Sequence[Any]) -> None:
    """Delete unused constants among these arguments, which frees their memory before a pass makes the next ones."""
    for node in args:
        if isinstance(node, Node) and node.op == "get_attr" and not node.users:
            graph.graph.erase_node(node)
            if not graph.graph.find_nodes(op="get_attr", target=node.target):
                _delete(graph, str(node.target))


def _delete(graph: GraphModule, name: str) -> None:
    path, _, last = name.rpartition(".")
    delattr(graph.get_submodule(path), last)


def insert(graph: GraphModule, before: Node, target: Any, *args: Any, like: Node | None = None, **kwargs: Any) -> Node:
    """Insert a call of `target` before `before`. It gets the module path of `like`, so that layers keep their names."""
    with graph.graph.inserting_before(before):
        node = graph.graph.call_function(target, args, kwargs)
    with _placeholder(graph).meta["val"].fake_mode, torch.no_grad():
        node.meta["val"] = target(*map_arg(args, _value), **map_arg(kwargs, _value))
    if like is not None and "nn_module_stack" in like.meta:
        node.meta["nn_module_stack"] = like.meta["nn_module_stack"]
    return node


def insert_layer(graph: GraphModule, before: Node, target: Any, source: Node, weight: Tensor, bias: Any) -> Node:
    """Insert a convolution or linear layer in place of the layer `before`, whose name it and its constants get."""
    name = layer_name(before)
    constants = [
        None if value is None else add_constant(graph, before, f"{name}.{part}", value)
        for part, value in (("weight", weight), ("bias", bias))
    ]
    return insert(graph, before, target, source, *constants, like=before)


def _value(node: Node) -> Any:
    return node.meta["val"]


def node_of(argument: Argument) -> Node:
    """An argument that must be a node. Raises TypeError for any other."""
    if not isinstance(argument, Node):
        raise TypeError(f"expected a node of the graph, not {argument!r}")
    return argument


def operand(node: Node, position: int = 0) -> Node:
    """The node at a position among a node's arguments. Raises TypeError if a number or None is there."""
    return node_of(node.args[position])


def shape_of(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def layer_name(node: Node) -> str:
    """Dotted path of the module that the node came from, as in the network's state dict."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return str(path) or node.name


def is_depthwise(node: Node) -> bool:
    return node.target is A.conv2d.default and argument(node, 6, 1) > 1 and shape_of(node.args[1])[1] == 1


def has_int8_weights(node: Any) -> bool:
    """Whether a node is a convolution or linear layer whose weights have Q/DQ with a scale for each output channel."""
    if node.target not in (A.conv2d.default, A.linear.default):
        return False
    dequantizer: Any = node.args[1]
    return bool(dequantizer.target is Q.dequantize_per_channel.default and dequantizer.args[3] == 0)


def argument(node: Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def is_padding(node: Any) -> bool:
    """Whether a node pads height and width with zeros for a single convolution, whose kernel can do the padding."""
    if node.target is not A.pad.default or len(node.args[1]) > 4 or argument(node, 3, 0):
        return False
    zeros = argument(node, 2, "constant") == "constant"
    return zeros and [user.target for user in node.users] == [A.conv2d.default]


def behind_views(node: Any) -> Any:
    """The convolution for which two views turn rows [N,H*W,C] into [N,C,H,W], if `node` is the first view.

    The node itself if it isn't.
    """
    if node.target is A.reshape.default and len(node.args[1]) == 4:
        permutes = list(node.users)
        if [(p.target, *p.args[1:]) for p in permutes] == [(A.permute.default, [0, 3, 1, 2])]:
            users = list(permutes[0].users)
            if [user.target for user in users] == [A.conv2d.default]:
                return users[0]
    return node


def pair(value: Any) -> tuple[int, int]:
    """A pair that ATen gives as n, [n] or [n, m]."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    return (items[0], items[-1])


def layers(graph: GraphModule) -> Iterator[tuple[Node, Layer]]:
    """Yield every multiply-accumulate operation of a float graph, with its MACs at batch 1."""
    for node in graph.graph.nodes:
        if node.target is A.conv2d.default:
            macs = math.prod(shape_of(node)) * math.prod(shape_of(node.args[1])[1:])
            yield node, Layer(layer_name(node), "depthwise" if is_depthwise(node) else "conv", macs)
        elif node.target is A.linear.default:
            yield node, Layer(layer_name(node), "linear", math.prod(shape_of(node)) * shape_of(node.args[0])[-1])
        elif node.target in (A.matmul.default, A.bmm.default) and constant(graph, node.args[0]) is None:
            yield node, Layer(layer_name(node), "matmul", math.prod(shape_of(node)) * shape_of(node.args[0])[-1])
        elif node.target is A.scaled_dot_product_attention.default:
            query, key = shape_of(node.args[0]), shape_of(node.args[1])
            yield node, Layer(layer_name(node), "matmul", 2 * math.prod(query) * key[-2])


def set_weights(graph: GraphModule, node: Node, weight: Tensor, bias: Tensor | None) -> None:
    """Give a conv or linear node new weights. Other nodes that share the old weights keep them."""
    name = layer_name(node)
    args = list(node.args) + [None] * (3 - len(node.args))
    args[1] = add_constant(graph, node, f"{name}.weight", weight)
    args[2] = None if bias is None else add_constant(graph, node, f"{name}.bias", bias)
    old, node.args = node.args, tuple(args)
    drop_constants(graph, old)


def set_int8_weights(graph: GraphModule, node: Any, weight: Tensor | None = None, scale: Tensor | None = None) -> None:
    """Give the Q/DQ of a layer's weights other float weights, another scale [out], or both."""
    dequantizer = node.args[1]
    quantizer = dequantizer.args[0]
    old = quantizer.args[:2]
    new_weight, new_scale = (
        before if value is None else add_constant(graph, quantizer, f"{node.name}.{name}", value)
        for name, value, before in (("weight", weight, old[0]), ("scale", scale, old[1]))
    )
    quantizer.args = (new_weight, new_scale, *quantizer.args[2:])
    dequantizer.args = (quantizer, new_scale, *dequantizer.args[2:])
    drop_constants(graph, [before for before in old if before not in (new_weight, new_scale)])
