"""Turns an ONNX graph into a torch module of ATen operations, with a layer for each convolution and matrix product.

onnx2pytorch converts the operators. Its module computes with tensors where torch has plain numbers, such as shapes, so
torch.export can't trace it. It runs once on zeros, and everything that doesn't depend on the image becomes a constant.
"""

import operator
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from edgekit.compat.onnx2pytorch import convert
from edgekit.compat.torch import trace_with_values

A = torch.ops.aten
_DEFAULTS: tuple[Any, ...] = (None, None, [1, 1], [0, 0], [1, 1], 1)
"""Values of the arguments of a convolution after its input, if they are left out."""


class OneByOne(nn.Module):
    """A network whose graph computes a single image, for any number of images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[0] == 1:
            logits: Tensor = self.model(images)
            return logits
        return torch.cat([self.model(image[None]) for image in images])


@torch.no_grad()
def import_graph(model: onnx.ModelProto, example: Tensor) -> nn.Module:
    """The module of a model with one input, float32 [1,C,H,W] like `example`. The model is changed.

    An unsupported operator may raise any exception.
    """
    _name_values(model)
    module = convert(model)
    names = {parameter: name for name, layer in module.named_modules() for parameter in layer.parameters(False)}
    graph = trace_with_values(module, example)
    constants = _fold_constants(graph, example)
    for node in list(graph.graph.nodes):
        if node.target is A.max_pool2d_with_indices.default:
            _forget_indices(graph, node)
        elif node.target is A.true_divide.Tensor:
            node.target = A.div.Tensor
        elif node.target in (A.conv2d.default, A.linear.default):
            _make_layer(graph, node, constants, names)
    graph.graph.eliminate_dead_code()
    # A graph of `make_fx` can't be pickled. This one can, and the new module has only the layers that it uses.
    plain = Graph()
    plain.output(plain.graph_copy(graph.graph, {}))
    return OneByOne(GraphModule(graph, plain))


def _name_values(model: onnx.ModelProto) -> None:
    """Give every value a name that can be an attribute; outputs of layers get the names of their weights."""
    graph = model.graph
    names: dict[str, str] = {"": ""}
    for node in graph.node:
        for attribute in [each for each in node.attribute if each.name == "training_mode" and each.i == 0]:
            node.attribute.remove(attribute)  # onnx2pytorch doesn't know it
        weight = node.input[1] if node.op_type in ("Conv", "Gemm") and len(node.input) > 1 else ""
        if weight.endswith(".weight"):
            _add_name(names, node.output[0], weight.removesuffix(".weight"))
    for values in (graph.input, graph.output, graph.initializer, graph.value_info):
        for value in values:
            value.name = _add_name(names, value.name)
    for node in graph.node:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = _add_name(names, name)


def _add_name(names: dict[str, str], value: str, wanted: str = "") -> str:
    if value not in names:
        name = re.sub(r"\W+", "_", wanted or value.removesuffix("_output_0")).strip("_") or "value"
        taken = set(names.values())
        names[value] = next(free for free in _with_numbers(name) if free not in taken)
    return names[value]


def _with_numbers(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(1))


def _fold_constants(graph: GraphModule, example: Tensor) -> dict[Node, Tensor]:
    """Compute what doesn't depend on the input, and make each such value that the rest needs one attribute."""
    variable: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or any(source in variable for source in node.all_input_nodes):
            variable.add(node)
    values: dict[Node, Any] = {}

    class Constants(Interpreter):
        def run_node(self, n: Node) -> Any:
            if n not in variable:
                values[n] = super().run_node(n)
            return values.get(n)

    Constants(graph).run(example)
    constants: dict[Node, Tensor] = {}
    for node, value in list(values.items()):
        if isinstance(value, Tensor) and any(user in variable for user in node.users):
            name = f"constant_{len(constants)}"
            graph.register_buffer(name, value.detach())
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            node.replace_all_uses_with(constant)
            constants[constant] = value
    graph.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return constants


def _forget_indices(graph: GraphModule, pool: Node) -> None:
    (item,) = pool.users
    assert item.target is operator.getitem
    with graph.graph.inserting_before(pool):
        item.replace_all_uses_with(graph.graph.call_function(A.max_pool2d.default, pool.args))


def _make_layer(graph: GraphModule, node: Node, constants: dict[Node, Tensor], names: dict[Any, str]) -> None:
    """Replace an operation by a module, whose name reports show, and whose weights `edgekit plan` counts."""
    x, *rest = node.args
    arguments: list[Any] = [constants.get(value, value) if isinstance(value, Node) else value for value in rest]
    weight, bias, stride, padding, dilation, groups = [*arguments, *_DEFAULTS[len(arguments) :]]
    if not isinstance(weight, Tensor) or isinstance(bias, Node):
        return
    options: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    layer: nn.Conv2d | nn.Linear
    if node.target is A.linear.default:
        layer = nn.Linear(weight.shape[1], weight.shape[0], **options)
    else:
        options |= {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
        options["kernel_size"] = tuple(weight.shape[2:])
        layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], **options)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    wanted = names.get(weight, f"layer_{node}").partition("_")[2]
    name = next(free for free in _with_numbers(wanted) if not hasattr(graph, free))
    graph.add_module(name, layer)
    with graph.graph.inserting_before(node):
        node.replace_all_uses_with(graph.graph.call_module(name, (x,)))
