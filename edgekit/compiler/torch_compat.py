"""torch: types of operations and fake tensors, kernels of Q/DQ, blocks with their own settings, and loading a graph
without pickle."""

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import MappingProxyType
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn, ops
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import impl

WRAPPERS: Mapping[Any, int] = MappingProxyType({wrap_with_autocast: 4, wrap_with_set_grad_enabled: 1})
"""Operations that call a subgraph, and the position of that subgraph among their arguments.

Checked with torch 2.13, where they are in private modules. torch.export makes them from `torch.autocast` and
`torch.no_grad` in a network's code. The arguments of the subgraph follow it. Those of autocast before it are the type
of device, the data type, whether it is enabled, and whether it caches.
"""
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_lock = Lock()


@impl("quantized_decomposed::quantize_per_tensor", "cpu")
def _quantize(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Kernel of Q for the CPU.

    torch's own computes the same values, but writes a new tensor at each step: Q and DQ of an activation of 2 MB took
    5 to 6 ms, and take 0.9 ms with these kernels (one thread).
    """
    return (x.float() * (1.0 / scale)).round_().add_(zero).clamp_(low, high).to(dtype)


@impl("quantized_decomposed::dequantize_per_tensor", "cpu")
def _dequantize(
    levels: Tensor,
    scale: float,
    zero: int,
    low: int,
    high: int,
    dtype: torch.dtype,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Kernel of DQ for the CPU, with the values of torch's own."""
    return levels.to(out_dtype or torch.float32).sub_(zero).mul_(scale)


def out_of_place(target: Any) -> OpOverload | None:
    """The operation `aten.relu` for the in-place `aten.relu_`, with the same overload; None for any other target.

    Checked with torch 2.13, where only the private module `torch._ops` has the type of an operation. edgekit needs it
    because torch.export keeps operations that write into their input, which edgekit's rewrites don't handle.
    """
    if not is_mutable(target):
        return None
    namespace, name, overload = str(target).split(".")
    plain = f"__{name[3:]}" if name.startswith("__i") else name[:-1]  # __iand__, or relu_
    packet = getattr(getattr(ops, namespace), plain, None)
    operation: OpOverload | None = getattr(packet, overload, None)
    return operation if operation is not None and not is_mutable(operation) else None


def is_mutable(target: Any) -> bool:
    """Whether an operation writes into one of its arguments."""
    return isinstance(target, OpOverload) and target._schema.is_mutable


def shared_argument(target: Any, arguments: Sequence[Any]) -> Any:
    """The argument of an operation that its result may be a view of; None if it has memory of its own.

    Checked with torch 2.13, where the schema of an operation is private.
    """
    if target is operator.getitem:  # of the list that `chunk` returns
        return arguments[0]
    if not isinstance(target, OpOverload):
        return None
    declared = zip(target._schema.arguments, arguments, strict=False)
    return next((value for argument, value in declared if argument.alias_info is not None), None)


def lazily_compiled(graph: torch.nn.Module) -> GraphModule:
    """The module of the same graph that compiles its Python code when it is called, not whenever it changes.

    Checked with torch 2.13, whose compiler has the class for the same reason, in a private module. NNCF and edgekit's
    passes change a graph dozens of times before its code is needed: a tenth of the time of a small calibration. Threads
    that call it need a copy each, because several may compile the same one at once.
    """
    assert isinstance(graph, GraphModule)
    return graph if isinstance(graph, _LazyGraphModule) else _LazyGraphModule(graph, graph.graph)


def compiled(graph: GraphModule) -> GraphModule:
    """The same graph, with compiled code, so that tracers find the names of its inputs."""
    _LazyGraphModule.force_recompile(graph)
    return graph


def fake_tensors() -> FakeTensorMode:
    """The mode in which torch computes shapes and dtypes without values. Constants of the graph may be real tensors.

    Checked with torch 2.13. `FakeTensorProp` is public and accepts this mode, whose class is in the private module
    `torch._subclasses`. The mode that it creates by default refuses a graph's real weights.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def weights_only_loads() -> Iterator[None]:
    """Let every `torch.load` inside the block read tensors only, so that a file can't run code.

    Checked with torch 2.13, whose `torch.export.load` passes `weights_only=False` and has no argument to change that.
    The block sets an environment variable that torch reads, so it affects all threads, and blocks of two threads take
    turns.
    """
    with _lock:
        before = os.environ.get(_FORCE)
        os.environ[_FORCE] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FORCE]
            else:
                os.environ[_FORCE] = before


def trace_with_values(module: nn.Module, example: Tensor) -> GraphModule:
    """The ATen operations of a call with this input. Python code may read tensors that don't depend on the input.

    Checked with torch 2.13, where `make_fx` is experimental and the argument is private. While they trace,
    `make_fx` by default and torch.export refuse to read tensors. The shapes in an ONNX graph are tensors, so it must.
    """
    graph: GraphModule = make_fx(module, pre_dispatch=True, _error_on_data_dependent_ops=False)(example)
    graph.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return graph
