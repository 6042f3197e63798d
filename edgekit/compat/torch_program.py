"""torch.export: makes the exported program of a graph that torch.export has made before, without tracing it again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import getitem
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from torch._export.utils import _insert_aten_to_metadata_assert_pass, placeholder_naming_pass
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.utils._pytree import tree_flatten

from edgekit.compat.torch import compiled
from edgekit.support.libraries import replaces_library

_by_tracing = torch.export.export
_replacing = RLock()
_KEPT = ("nn_module_stack", "stack_trace", "source_fn_stack", "torch_fn", "custom")
"""Keys of the meta data that a node takes over."""

_TRACED = "_non_strict_export.<locals>._tuplify_outputs.<locals>._aot_export_non_strict.<locals>.Wrapper"
_NO_MODULE = {"L__self__": ("", f"torch.export._trace.{_TRACED}")}
"""Module of the nodes that edgekit inserted for no layer. LiteRT's converter writes its name into the file."""


@contextmanager
def exporting_by_copying() -> Iterator[None]:
    """Let `torch.export.export` in this block copy graphs that it has made itself, instead of tracing them again.

    Checked with torch 2.13, whose tracing takes most of the time of an export. The converters of all three runtimes
    need a program, and LiteRT's exports the graph itself. The block replaces the function for all threads, so
    blocks of two threads take turns.
    """
    with _replacing:
        torch.export.export = _export  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.export.export = _by_tracing


@replaces_library
def _export(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Do what torch's function of this signature does. Other modules than plain graphs are left to torch."""
    if (
        not kwargs
        and not any(options.values())
        and isinstance(module, GraphModule)
        and len(args) == 1
        and _is_plain(module)
    ):
        return _program(module, args)
    return _by_tracing(compiled(module) if isinstance(module, GraphModule) else module, args, kwargs, **options)


def _is_plain(module: GraphModule) -> bool:
    """Whether a graph calls nothing but operations on its one input, its parameters and its buffers, once each."""
    tensors = _tensors(module)
    nodes = list(module.graph.nodes)
    return (
        len({id(tensor) for tensor in tensors.values()}) == len(tensors)
        and sum(node.op == "placeholder" for node in nodes) == 1
        and all(
            node.op in ("placeholder", "output")
            or (node.op == "get_attr" and node.target in tensors)
            or (node.op == "call_function" and (node.target is getitem or _stays(node)))
            for node in nodes
        )
    )


def _stays(node: Node) -> bool:
    """Whether tracing repeats a call as it is. It gives arguments by position where the operation allows that."""
    if not isinstance(node.target, OpOverload) or node.target._schema.is_mutable:
        return False
    return all(argument.kwarg_only or argument.name not in node.kwargs for argument in node.target._schema.arguments)


def _tensors(module: GraphModule) -> dict[str, Tensor]:
    """Parameters and buffers by name, in the order in which torch makes inputs of them."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _program(module: GraphModule, args: tuple[Tensor]) -> ExportedProgram:
    tensors, parameters = _tensors(module), dict(module.named_parameters(remove_duplicate=False))
    names = module.state_dict().keys()
    persistent = {name: tensor for name, tensor in tensors.items() if name in names}
    mode = FakeTensorMode(allow_non_fake_inputs=True, export=True)
    fakes = {name: mode.from_tensor(tensor) for name, tensor in tensors.items()}
    image = mode.from_tensor(args[0])
    graph, inputs = Graph(), list[InputSpec]()
    for name, value in [*fakes.items(), ("", image)]:
        node = graph.placeholder(f"arg{len(inputs)}_1")
        _set_value(node, value)
        kind = InputKind.USER_INPUT if not name else InputKind.PARAMETER if name in parameters else InputKind.BUFFER
        kept = name in persistent if kind is InputKind.BUFFER else None
        inputs.append(InputSpec(kind, TensorArgument(node.name), name or None, kept))
    places = dict(zip([*fakes, ""], graph.nodes, strict=True))
    with mode, torch.no_grad():
        results = _copy(module, graph, places)
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results]
    specs = ExportGraphSignature(inputs, outputs)
    constants: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if name not in persistent}
    root = GraphModule({}, graph)
    _insert_aten_to_metadata_assert_pass(root)
    placeholder_naming_pass(root, specs, module, (image,), {}, fakes, constants)
    result = module.graph.process_outputs(module.graph.output_node().args[0])
    arguments = [str(node.target) for node in module.graph.find_nodes(op="placeholder")]
    call = ModuleCallSignature([], [], tree_flatten((args, {}))[1], tree_flatten(result)[1], arguments)
    return ExportedProgram(
        root=root,
        graph=root.graph,
        graph_signature=specs,
        state_dict=persistent,
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", call)],
        example_inputs=(args, {}),
        constants=constants,
    )


def _copy(module: GraphModule, graph: Graph, places: Mapping[str, Node]) -> list[Node]:
    """Copy the operations of a module to a graph, with names and values as tracing gives them; returns the outputs."""
    new: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            new[node] = places[""]
        elif node.op == "get_attr":
            new[node] = places[node.target]
        elif node.op == "output":
            results, _ = tree_flatten(map_arg(node.args[0], new.__getitem__))
            graph.output(tuple(results))
        elif node.target is getitem:
            new[node] = new[node.args[0]][node.args[1]]
        else:
            args, kwargs = map_arg((node.args, node.kwargs), new.__getitem__)
            name = graph._target_to_str(node.target.overloadpacket.__name__)
            copied = graph.create_node("call_function", node.target, args, kwargs, name)
            copied.meta = {key: node.meta[key] for key in _KEPT if key in node.meta}
            copied.meta.setdefault("nn_module_stack", _NO_MODULE)
            copied.meta["from_node"] = []
            args, kwargs = map_arg((args, kwargs), lambda each: each.meta["val"])
            value = node.target(*args, **kwargs)
            _set_value(copied, value)
            new[node] = _parts(graph, copied, value) if isinstance(value, tuple | list) else copied
    graph.eliminate_dead_code(lambda node: node.target is not torch.ops.aten.detach.default)  # torch keeps the others
    return results


def _set_value(node: Node, value: Any) -> None:
    node.meta["val"] = value
    if isinstance(value, Tensor):
        node.meta["tensor_meta"] = _extract_tensor_metadata(value)


def _parts(graph: Graph, node: Node, values: Any) -> list[Node]:
    """Nodes for all parts of a node's value, as tracing makes them."""
    parts = []
    for index, value in enumerate(values):
        part = graph.call_function(getitem, (node, index))
        part.meta = dict(node.meta)
        _set_value(part, value)
        parts.append(part)
    return parts
