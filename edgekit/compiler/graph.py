"""The exported graph: how a network becomes one, and the small tools that every rewrite of it uses.

The graph is what `torch.export` gives as a `GraphModule` of ATen operations, batch 1, with fake tensors in
``node.meta["val"]`` for shapes and dtypes. Rewrites keep those up to date by calling `refresh`.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from edgekit.compat.torch import fake_tensors, out_of_place

A = torch.ops.aten
Q = torch.ops.quantized_decomposed
M = TypeVar("M", bound=nn.Module)

CONSTANT_VIEWS = {A.reshape.default, A.permute.default, A.unsqueeze.default, A.expand.default}
KEPT_BYTES = 1 << 28
NO_OPS = {
    A.dropout.default,
    A.alias.default,
    A.detach.default,
    A.lift_fresh_copy.default,
    A.contiguous.default,
    A.clone.default,
}


@dataclass(frozen=True)
class Layer:
    """One operation that multiplies and accumulates: what can run in integer kernels."""

    name: str
    op: str
    """conv | depthwise | linear | matmul"""
    macs: int


class Replay(Interpreter):
    """Runs a Q/DQ graph for image after image: its weights go through Q/DQ once, as far as `KEPT_BYTES` hold them."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self._kept: dict[Node, Tensor | None] = {}
        self._left = KEPT_BYTES

    def run_node(self, n: Node) -> Any:
        if n in self._kept:
            return self._kept[n]
        value = super().run_node(n)
        if n.target is Q.dequantize_per_channel.default and value.nbytes <= self._left:
            self._left -= value.nbytes
            self._kept[n] = value
            (quantizer,) = n.all_input_nodes[:1]
            if len(quantizer.users) == 1:
                self._kept[quantizer] = None  # nothing else asks for its value
        return value


@torch.no_grad()
def export_graph(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """The graph of `module` for float32 inputs of `shape` [1,3,H,W], batch norms folded and no-ops removed.

    Source: torch.export. The module itself is left as it is; the graph shares its tensors.
    """
    return simplify(trace(module, shape))


def trace(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """What torch.export makes of `module`; it raises whatever the module's own code stumbles over."""
    example = torch.zeros(tuple(shape))
    graph = torch.export.export(copy_sharing(module).eval(), (example,)).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    return graph


def simplify(graph: GraphModule) -> GraphModule:
    """Fold batch norms and remove no-ops, in place. Returns the same graph."""
    for node in list(graph.graph.nodes):
        if node.target in NO_OPS:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)  # dead code elimination keeps dropout: it counts as random
        elif node.target is A.view.default:  # a reshape works whatever the strides, which rewrites change
            node.target = A.reshape.default
        elif (operation := out_of_place(node.target)) is not None:
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user > node)
            node.target = operation
    _fold_batch_norms(graph)
    return refresh(graph)


def copy_sharing(module: M) -> M:
    """A deep copy but for the tensors, which are the module's own: whoever changes the copy puts others in their place.

    Of a network with billions of weights there is no room for two.
    """
    return copy.deepcopy(module, {id(each): each for each in (*module.parameters(), *module.buffers())})


def refresh(graph: GraphModule) -> GraphModule:
    """Remove what nothing uses, recompute every node's fake tensor, recompile. Returns the same graph."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in {**dict(graph.named_parameters()), **dict(graph.named_buffers())}.keys() - used:
        _delete(graph, name)
    (placeholder,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    example = torch.zeros(tuple(placeholder.meta["val"].shape))
    FakeTensorProp(graph, fake_tensors()).propagate(example)
    graph.recompile()
    return graph


def example_input(graph: GraphModule) -> Tensor:
    """Zeros, float32, of the shape that the graph takes."""
    (placeholder,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    return torch.zeros(tuple(placeholder.meta["val"].shape))


def constant(graph: GraphModule, node: Any) -> Tensor | None:
    """The tensor that `node` always has (a parameter, or views of one), or None if it depends on the input."""
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


def add_constant(graph: GraphModule, before: Node, name: str, value: Tensor) -> Node:
    """A new get_attr node holding `value`, placed before `before`. The name is made unique."""
    base = "rw_" + name.replace(".", "_")
    attribute = base
    count = 0
    while hasattr(graph, attribute):
        count += 1
        attribute = f"{base}_{count}"
    graph.register_buffer(attribute, value.detach().clone().contiguous())
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(attribute)


def replace_layer(graph: GraphModule, old: Node, new: Node) -> None:
    """Put `new` in the place of a conv or linear node, and let go of the weights that `old` alone had."""
    given = old.args
    old.replace_all_uses_with(new)
    graph.graph.erase_node(old)
    drop_constants(graph, given)


def drop_constants(graph: GraphModule, given: Sequence[Any]) -> None:
    """Delete the constants among these arguments that nothing uses any more, before a pass makes the next ones."""
    for node in given:
        if isinstance(node, Node) and node.op == "get_attr" and not node.users:
            graph.graph.erase_node(node)
            if not graph.graph.find_nodes(op="get_attr", target=node.target):
                _delete(graph, str(node.target))


def _delete(graph: GraphModule, name: str) -> None:
    path, _, last = name.rpartition(".")
    delattr(graph.get_submodule(path), last)


def insert(graph: GraphModule, before: Node, target: Any, *args: Any, like: Node | None = None, **kwargs: Any) -> Node:
    """A new call of `target` before `before`; it takes the module path of `like` so that layers keep their names."""
    with graph.graph.inserting_before(before):
        node = graph.graph.call_function(target, args, kwargs)
    if like is not None and "nn_module_stack" in like.meta:
        node.meta["nn_module_stack"] = like.meta["nn_module_stack"]
    return node


def shape_of(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def layer_name(node: Node) -> str:
    """The dotted path of the module that the node came from, as in the network's state dict."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return str(path) or node.name


def is_depthwise(node: Node) -> bool:
    return node.target is A.conv2d.default and argument(node, 6, 1) > 1 and shape_of(node.args[1])[1] == 1


def argument(node: Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def is_padding(node: Any) -> bool:
    """True for zeros around height and width that one convolution alone takes: its kernel can take them in."""
    if node.target is not A.pad.default or len(node.args[1]) > 4 or argument(node, 3, 0):
        return False
    zeros = argument(node, 2, "constant") == "constant"
    return zeros and [user.target for user in node.users] == [A.conv2d.default]


def pair(value: Any) -> tuple[int, int]:
    """ATen gives [n] or [n, m] for a pair."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    return (items[0], items[-1])


def layers(graph: GraphModule) -> Iterator[tuple[Node, Layer]]:
    """Every multiply-accumulate operation of a float graph with its MACs at batch 1."""
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


def _fold_batch_norms(graph: GraphModule) -> None:
    """Fold each batch norm into the convolution before it or the 1x1 one behind it; others become a product and a sum.

    None may stay: NNCF folds what it finds into the convolution before, even where that has other users.
    """
    for node in list(graph.graph.nodes):
        if node.target is not A.batch_norm.default:
            continue
        weight, bias, mean, variance = (constant(graph, a) for a in node.args[1:5])
        if weight is None or bias is None or mean is None or variance is None:
            continue
        scale = weight.double() * torch.rsqrt(variance.double() + node.args[7])
        shift = bias.double() - mean.double() * scale
        if not (_fold_before(graph, node, scale, shift) or _fold_behind(graph, node, scale, shift)):
            shape = (-1, *[1] * (len(shape_of(node)) - 2))
            factor = add_constant(graph, node, f"{layer_name(node)}.scale", scale.float().view(shape))
            offset = add_constant(graph, node, f"{layer_name(node)}.shift", shift.float().view(shape))
            product = insert(graph, node, A.mul.Tensor, node.args[0], factor, like=node)
            node.replace_all_uses_with(insert(graph, node, A.add.Tensor, product, offset, like=node))


def _fold_before(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    """Into the convolution that alone feeds it."""
    conv = norm.args[0]
    if not isinstance(conv, Node) or conv.target is not A.conv2d.default or len(conv.users) != 1:
        return False
    kernel = constant(graph, conv.args[1])
    if kernel is None:
        return False
    old = constant(graph, argument(conv, 2, None))
    moved = shift if old is None else shift + old.double() * scale
    set_weights(graph, conv, (kernel.double() * scale.view(-1, 1, 1, 1)).float(), moved.float())
    norm.replace_all_uses_with(conv)
    return True


def _fold_behind(graph: GraphModule, norm: Node, scale: Tensor, shift: Tensor) -> bool:
    """Into the 1x1 convolution that alone takes it; where there is padding, zeros would have to be shifted too."""
    conv = next(iter(norm.users), None)
    if conv is None or len(norm.users) != 1 or conv.target is not A.conv2d.default:
        return False
    kernel = constant(graph, conv.args[1])
    unpadded = pair(argument(conv, 4, [0, 0])) == (0, 0) and argument(conv, 6, 1) == 1
    if kernel is None or not unpadded or kernel.shape[2:] != (1, 1):
        return False
    old = constant(graph, argument(conv, 2, None))
    moved = (kernel.double() * shift.view(1, -1, 1, 1)).sum((1, 2, 3)) + (0 if old is None else old.double())
    set_weights(graph, conv, (kernel.double() * scale.view(1, -1, 1, 1)).float(), moved.float())
    source = norm.args[0]
    assert isinstance(source, Node)
    norm.replace_all_uses_with(source)
    return True


def set_weights(graph: GraphModule, node: Node, weight: Tensor, bias: Tensor | None) -> None:
    """Give a conv or linear node other weights; other nodes that share the old ones keep those."""
    name = layer_name(node)
    args = list(node.args) + [None] * (3 - len(node.args))
    args[1] = add_constant(graph, node, f"{name}.weight", weight)
    args[2] = None if bias is None else add_constant(graph, node, f"{name}.bias", bias)
    old, node.args = node.args, tuple(args)
    drop_constants(graph, old)
    for position in (1, 2):
        if isinstance(new := node.args[position], Node):
            new.meta["val"] = (weight, bias)[position - 1]
