"""torch.export: decomposes a program node by node, which takes a fraction of the time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from operator import getitem
from threading import RLock
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._export import utils
from torch._export.utils import _detect_fake_mode_from_gm, _special_op_to_preserve_cia
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.export import ExportedProgram, exported_program
from torch.export.exported_program import _override_composite_implicit_decomp
from torch.export.graph_signature import OutputKind
from torch.fx import Graph, Node
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from edgekit.support.libraries import replaces_library

Table: TypeAlias = dict[Any, Callable[..., Any]]
"""Decompositions by operation."""

_decompose_by_tracing: Callable[..., ExportedProgram] = exported_program._decompose_exported_program
_replacing = RLock()
_VALUES = {"val", "tensor_meta", "eager_input_vals"}
"""Keys of the meta data that depend on the tracer's fake mode."""
_OF_ONE_NODE = _VALUES | {"original_aten"}
"""Keys of the meta data that the nodes of a decomposition don't take over from the node that they replace."""
_REUSABLE = {"aten", "quantized_decomposed"}
"""Namespaces of operations without a state."""
_AUTOGRAD_DECOMPOSES = {torch.ops.aten.upsample_bicubic2d.vec, torch.ops.aten.upsample_bicubic2d.default}
"""Operations that no table decomposes, but tracing through autograd does. LiteRT's converter doesn't know them."""
_traced: dict[Any, Graph] = {}
"""The operations that a call consists of, without values, for the 1,024 calls that this process traced last."""


@contextmanager
def decomposing_by_node() -> Iterator[None]:
    """Let `ExportedProgram.run_decompositions` in this block trace only those nodes that it decomposes.

    Checked with torch 2.13, which traces the whole program through autograd and functionalization, and before that
    lists torch's operations again for each of their namespaces. The converters of the three runtimes call it for every
    graph, LiteRT's three times, and spend most of their time in it. Equal operations are traced once for all programs
    of this process. The block replaces two private functions of torch for all threads, so blocks of two threads
    take turns.
    """
    with _replacing:
        list_operations = utils._materialize_cpp_cia_ops
        exported_program._decompose_exported_program = _decompose  # type: ignore[assignment]
        utils._materialize_cpp_cia_ops = cache(list_operations)
        try:
            yield
        finally:
            exported_program._decompose_exported_program = _decompose_by_tracing
            utils._materialize_cpp_cia_ops = list_operations


@replaces_library
def _decompose(
    program: ExportedProgram, *, cia_to_decomp: Table, python_decomp_table: Table, **options: Any
) -> ExportedProgram:
    """Do what torch's function of this signature does.

    A program that changes its inputs or calls subgraphs is left to torch.
    """
    mode = _detect_fake_mode_from_gm(program.graph_module)
    if mode is not None and _is_plain(program):
        kept = {op for op, how in cia_to_decomp.items() if how is _special_op_to_preserve_cia}
        decomposition = _Decomposition(python_decomp_table, cia_to_decomp, kept, mode)
        with _decompositions_in_functions(program.graph, cia_to_decomp):
            return _with_graph(program, decomposition.of(program.graph))
    return _decompose_by_tracing(
        program, cia_to_decomp=cia_to_decomp, python_decomp_table=python_decomp_table, **options
    )


@contextmanager
def _decompositions_in_functions(graph: Graph, cia_to_decomp: Table) -> Iterator[None]:
    """Let Python functions that a graph calls, such as the converters' composites, decompose what they call.

    A graph without such functions is spared the preparation of all of torch's operations, which takes 0.1 s.
    """
    if any(isinstance(node.target, FunctionType) for node in graph.nodes):
        with _override_composite_implicit_decomp(cia_to_decomp), enable_python_dispatcher():
            yield
    else:
        yield


def _is_plain(program: ExportedProgram) -> bool:
    """Whether a program only calls functions, changes nothing, and is decomposed alike node by node."""
    kinds = {spec.kind for spec in program.graph_signature.output_specs}
    operations = {node.op for node in program.graph.nodes}
    plain = kinds <= {OutputKind.USER_OUTPUT} and operations <= {"placeholder", "call_function", "output"}
    return plain and not any(node.target in _AUTOGRAD_DECOMPOSES for node in program.graph.nodes)


def _with_graph(program: ExportedProgram, graph: Graph) -> ExportedProgram:
    """A program with the same inputs and weights, and a graph with the same placeholders."""
    outputs: Any = graph.output_node().args[0]
    specs = [
        replace(spec, arg=replace(spec.arg, name=node.name))
        for spec, node in zip(program.graph_signature.output_specs, outputs, strict=True)
    ]
    return ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=replace(program.graph_signature, output_specs=specs),
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )


class _Decomposition:
    """Copies a graph, and inserts in place of each node that has a decomposition the nodes that it consists of."""

    def __init__(self, table: Table, implicit: Table, kept: set[OpOverload], mode: FakeTensorMode) -> None:
        self._table, self._kept, self._mode = table, kept, mode
        # torch makes its own implicit decompositions anew each time, as partial functions. Others are a converter's.
        own = {op: how for op, how in implicit.items() if isinstance(how, FunctionType)}
        self._key_of_tables = frozenset(table.items()), frozenset(own.items())
        self._graph = Graph()
        self._new: dict[Node, Any] = {}
        """For each node of the old graph the new node, or the nodes if its value is a tuple."""

    def of(self, graph: Graph) -> Graph:
        """The decomposed copy of a graph."""
        with torch.no_grad(), self._mode:
            for node in graph.nodes:
                if node.op != "call_function":
                    self._new[node] = self._graph.node_copy(node, self._new.__getitem__)
                    self._new[node].name = node.name  # a copied graph would rename inputs with a builtin's name
                elif self._stays(node.target):
                    self._new[node] = self._copy(node)
                else:
                    self._new[node] = self._expand(node)
        self._graph.eliminate_dead_code()
        return self._graph

    def _stays(self, target: Any) -> bool:
        if target is getitem or target in self._kept:
            return True
        if not isinstance(target, OpOverload) or target in self._table:
            return False
        name = target._schema.name, target._schema.overload_name
        return not torch._C._dispatch_has_kernel_for_dispatch_key(
            ".".join(filter(None, name)), "CompositeImplicitAutograd"
        )

    def _copy(self, node: Node) -> Any:
        """Copy a node. The strides of its value may be others than before, because those of its inputs may be."""
        if node.target is getitem:
            args: Any = map_arg(node.args, self._new.__getitem__)
            parts, index = args
            if not isinstance(parts, Node):
                return parts[index]
        copied = self._graph.node_copy(node, self._new.__getitem__)
        _set_value(copied)
        return copied

    def _expand(self, node: Node) -> Any:
        """Insert the nodes that a node consists of. Returns the one, or those, with its value."""
        leaves, spec = tree_flatten((node.args, node.kwargs))
        inputs = [self._new[leaf] for leaf in leaves if isinstance(leaf, Node)]
        inner: dict[Node, Any] = {}
        for part in self._trace(node.target, leaves, spec, [_value(value) for value in inputs]).nodes:
            if part.op == "placeholder":
                inner[part] = inputs[len(inner)]
            elif part.op == "call_function":
                inner[part] = copied = self._graph.node_copy(part, inner.__getitem__)
                copied.meta = {key: value for key, value in node.meta.items() if key not in _OF_ONE_NODE} | part.meta
                _set_value(copied)
            else:
                result = map_arg(part.args[0], inner.__getitem__)
        return result

    def _trace(self, target: Any, leaves: Sequence[Any], spec: TreeSpec, values: Sequence[FakeTensor]) -> Graph:
        """The operations of a call. The leaves of its arguments that are nodes have these values, in this order."""

        def call(*tensors: Any) -> Any:
            remaining = iter(tensors)
            args, kwargs = tree_unflatten(
                [next(remaining) if isinstance(leaf, Node) else leaf for leaf in leaves], spec
            )
            return target(*args, **kwargs)

        shapes = tuple((value.shape, value.stride(), value.dtype) for value in values)
        literals = tuple(None if isinstance(leaf, Node) else repr(leaf) for leaf in leaves)
        key = _identity(target), literals, spec, shapes, self._key_of_tables
        graph = _traced.get(key)
        if graph is None:
            functional = dispatch_functionalize(call, FunctionalTensorMode(export=True))
            # Nodes of equal calls share their value. The tracer would take two inputs with the same value for one.
            own = [value.detach() for value in values]
            with _use_lazy_graph_module(True), _without_onednn():  # of the module, nothing but its graph is used
                graph = make_fx(functional, self._table, _allow_non_fake_inputs=True)(*own).graph
            graph.eliminate_dead_code(lambda part: part.op in ("placeholder", "output"))
            for part in graph.nodes:
                part.meta = {key: value for key, value in part.meta.items() if key not in _VALUES}
            if _is_reusable(graph):
                _traced[key] = graph
                if len(_traced) > 1024:
                    del _traced[next(iter(_traced))]
        return graph


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Keep torch from decomposing LSTM into oneDNN's operation, which no converter knows.

    It does so where no gradient is wanted. `torch.backends.mkldnn.flags` would warn of Intel's GPUs.
    """
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def _is_reusable(graph: Graph) -> bool:
    """Whether a graph stands for each equal call. LiteRT's converter numbers the composite operations that it marks."""
    targets = (node.target for node in graph.nodes if node.op == "call_function")
    return all(target is getitem or getattr(target, "namespace", None) in _REUSABLE for target in targets)


def _identity(target: Any) -> Any:
    """An operation itself. Of a Python function, which a converter makes anew for each node, what it computes with."""
    if not isinstance(target, FunctionType):
        return target
    try:
        cells = tuple(cell.cell_contents for cell in target.__closure__ or ())
        defaults = target.__defaults__, *(target.__kwdefaults__ or {}).items()
        identity = target.__module__, target.__code__, cells, defaults, repr((cells, defaults))
        hash(identity)
    except (TypeError, ValueError):  # something without a hash, or a variable without a value
        return target
    return identity


def _set_value(node: Node) -> None:
    assert callable(node.target)
    args, kwargs = map_arg((node.args, node.kwargs), _value)
    value = node.meta["val"] = node.target(*args, **kwargs)
    if isinstance(value, FakeTensor):
        node.meta["tensor_meta"] = _extract_tensor_metadata(value)


def _value(node: Node) -> Any:
    return node.meta["val"]
