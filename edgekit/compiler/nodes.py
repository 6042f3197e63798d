"""Reads the nodes of an exported graph: their operations, arguments, values and names."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import Argument

A = torch.ops.aten
Q = torch.ops.quantized_decomposed

T = TypeVar("T")
Operation: TypeAlias = Callable[..., Any]
"""An operation that a node calls."""
CONSTANT_VIEWS = {A.reshape.default, A.permute.default, A.unsqueeze.default, A.expand.default}
"""Operations of which a parameter remains a constant."""


def is_view_of_constant(node: Argument) -> bool:
    """Whether a node is a parameter, or nothing but views of one."""
    while isinstance(node, Node) and node.target in CONSTANT_VIEWS:
        node = node.args[0]
    return isinstance(node, Node) and node.op == "get_attr"


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
