"""Profile with ONNX Runtime's own profiler, which times every node of the optimized graph."""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineError
from edgekit.runtime.engine import import_runtime
from edgekit.runtime.onnx.engine import INT8, REARRANGING, OnnxGraph, int8_values, read_onnx, session_options
from edgekit.runtime.profile import (
    OpProfile,
    Profile,
    Ran,
    Shape,
    add_times,
    matrix_macs,
    product,
    random_input,
    with_surroundings,
)
from edgekit.support.weight_pairs import count_saturating

# Index of the second operand among the inputs of each operation.
CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
MATRICES = {
    **{"MatMul": 1, "FusedMatMul": 1, "Gemm": 1, "FusedGemm": 1},
    **{"MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3, "QGemm": 3},
}
ATTENTION = {"Attention": 1, "QAttention": 1}
PRODUCTS = CONVOLUTIONS | MATRICES | ATTENTION
INTEGER = {"ConvInteger", "QLinearConv", "QAttention"} | {name for name in MATRICES if "Q" in name or "Integer" in name}
TYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8", "tensor(int8)": "i1"}
TYPES |= {"tensor(uint8)": "u1", "tensor(int32)": "i4", "tensor(int64)": "i8"}

INTEGER_INPUTS = {
    "QLinearConv": (2, 3),
    "ConvInteger": (2, 1),
    "QLinearMatMul": (2, 3),
    "MatMulInteger": (2, 1),
    "MatMulIntegerToFloat": (4, 1),
    "QGemm": (2, 3),
}
"""Positions of the zero point of the activations and of the weights in the inputs of integer operations."""
FLOAT_OPERATIONS = ("Conv", "MatMul", "Gemm")
"""Operations that ONNX Runtime turns into integer ones where they follow DequantizeLinear."""
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
MOVES = (*CONVERSIONS, *REARRANGING, "ReorderInput", "ReorderOutput", "Cast", "Pad")
"""Operations that only convert, pad or rearrange values."""
MADE = "ONNX Runtime created it in float while it optimized the graph"


@dataclass(frozen=True)
class _Node:
    """A node that ran."""

    name: str
    operation: str
    inputs: tuple[Shape, ...]
    out: Shape
    ms: float
    inputs_from: tuple[int, ...] = ()
    """Positions of the nodes that make its inputs."""

    @property
    def family(self) -> tuple[bool, bool]:
        """Whether it is an integer kernel, and a convolution; two profiles of one model must agree in both."""
        return self.operation in INTEGER, self.operation in CONVOLUTIONS

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices or convolves.

        A 1x1 depthwise convolution only scales channels. ONNX Runtime turns some products with constants into one.
        """
        if self.operation not in PRODUCTS:
            return False
        channels = self.inputs[0][1:2]
        return self.operation not in CONVOLUTIONS or self.inputs[1:2] != ((*channels, 1, 1, 1),)

    @property
    def macs(self) -> int:
        left, right = self.inputs[0], self.inputs[PRODUCTS[self.operation]]
        if self.operation == "ConvTranspose":
            return math.prod(left) * math.prod(right[1:])
        if self.operation in CONVOLUTIONS:
            return math.prod(self.out) * math.prod(right[1:])
        if self.operation in ATTENTION:
            return math.prod(left) * right[-1] + 2 * math.prod(self.out) * self.out[-2]
        return matrix_macs(left, right, self.out)


def profile(model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    """Profile the session as an app runs it for the times, and one without packing and padding for the shapes."""
    disabled = list(options.get("disabled_optimizers", ()))
    nodes = _run(model, threads, disabled, runs)
    shaped = _run(model, threads, [*disabled, "NchwcTransformer"], 1, packed=False)
    products = _products(nodes, shaped, read_onnx(model))
    measured = Profile(
        f"ONNX Runtime {import_runtime('onnx').__version__}'s profile of every node that ran after graph optimization. "
        "The MACs come from the shapes in that profile, before the channel-blocked layout pads them.",
        tuple(op for op, _ in products),
        add_times(
            (node.operation, node.operation in INTEGER if node.operation in PRODUCTS else None, node.ms)
            for node in nodes
        ),
    )
    places = {id(node): place for place, (_, node) in enumerate(products)}
    return with_surroundings(measured, [_ran(node, places.get(id(node))) for node in nodes])


def _ran(node: _Node, product: int | None) -> Ran:
    ms, converted = node.ms if product is None else 0.0, node.operation in CONVERSIONS
    return Ran(ms, node.inputs_from, product, node.operation in MOVES, math.prod(node.out) if converted else 0)


def nodes_that_ran(model: Path, disabled: Sequence[str]) -> list[tuple[str, str]]:
    """Name and operation of each node that a session of a model runs, without the optimizers in `disabled`."""
    return [(node.name, node.operation) for node in _run(model, 1, disabled, 1, packed=False)]


def _run(model: Path, threads: int, disabled: Sequence[str], runs: int, packed: bool = True) -> list[_Node]:
    """Nodes that ran, in order, with the median of their times in all runs but the first.

    Packing weights needs memory, and the profile has no shapes of packed ones. The edges come from the optimized graph,
    which the packed session saves in the order in which it runs.
    """
    ort = import_runtime("onnx")
    options = session_options(ort, threads)
    options.enable_profiling = True
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        optimized = Path(folder) / "optimized.onnx"
        if packed:
            options.optimized_model_filepath = str(optimized)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
        feeds = {argument.name: _feed(argument) for argument in session.get_inputs()}
        for _ in range(runs + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = read_onnx(optimized) if packed else None
    calls: dict[tuple[str, str], list[Any]] = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"]:
            calls.setdefault((name, event["args"].get("node_index", "")), []).append(event)
    nodes = [_node(name, events) for (name, _), events in calls.items()]
    if graph is None or [node.operation for node in nodes] != [node.op_type for node in graph.nodes]:
        return nodes
    return [replace(node, inputs_from=makers) for node, makers in zip(nodes, graph.edges(), strict=True)]


def _feed(argument: Any) -> NDArray[Any]:
    sizes = [size if isinstance(size, int) else None for size in argument.shape]
    if argument.type not in TYPES:
        raise EngineError(f"input '{argument.name}' has type {argument.type}", valid=", ".join(TYPES))
    return random_input(argument.name, sizes, np.dtype(TYPES[argument.type]))


def _node(name: str, events: Sequence[Any]) -> _Node:
    """A node, from the event of each run."""
    details = events[0]["args"]
    inputs, outputs = (
        tuple(tuple(shape) for tensor in details[key] for shape in tensor.values())
        for key in ("input_type_shape", "output_type_shape")
    )
    ms = median(event["dur"] / 1e3 for event in events[1:])
    return _Node(name, details["op_name"], inputs, outputs[0] if outputs else (), ms)


def _products(nodes: Sequence[_Node], shaped: Sequence[_Node], file: OnnxGraph) -> list[tuple[OpProfile, _Node]]:
    """Products with the nodes in `nodes` that ran them, and the names and shapes of the same nodes from `shaped`.

    They are in the order of the file. The two sessions may run branches in different orders.
    """
    waiting = [(node, file.origin(node.name, *PRODUCTS)) for node in nodes if node.is_product]
    origins = [(node, file.origin(node.name, *PRODUCTS)) for node in shaped if node.is_product]
    named = {_name(origin) for _, origin in origins}
    ops: list[tuple[int, OpProfile, _Node]] = []
    place = -1
    for node, origin in origins:
        same = [(ran, by) for ran, by in waiting if ran.family == node.family]
        same.sort(key=lambda pair: (_name(pair[1]) != _name(origin), _name(pair[1]) in named))
        if not same:
            raise EngineError(f"ONNX Runtime ran '{node.name}' in another kernel in the second profile")
        waiting.remove(same[0])
        ran = same[0][0]
        if origin is not None and file.is_sum(origin):
            continue
        operands = file.quantized(origin) if origin is not None else (False, False)
        name, why = (node.name, MADE) if origin is None else (origin.name, "")
        place = place if origin is None else file.places[origin.name]
        op = OpProfile(name, ran.operation, node.macs, ran.operation in INTEGER, ran.ms, why)
        ops.append((place, product("ONNX Runtime", op, operands), ran))
    if waiting:
        raise EngineError("ONNX Runtime ran fewer products in the second profile")
    return [(op, ran) for _, op, ran in sorted(ops, key=lambda entry: entry[0])]


def _name(origin: Any) -> str:
    return "" if origin is None else str(origin.name)


def count_pairs(model: Path) -> int:
    """Number of pairs of INT8 weights that meet uint8 activations and can saturate.

    ONNX Runtime computes int8 activations, and uint8 weights, in wider integers.
    """
    return sum(count_saturating(levels, groups) for levels, groups in _int8_layers(read_onnx(model), model.parent))


def _int8_layers(graph: OnnxGraph, folder: Path) -> Iterator[tuple[NDArray[np.int8], int]]:
    """INT8 weights [out,in] or [out,in,*kernel] of each layer with uint8 activations, and its number of groups."""
    types = {name: tensor.data_type for name, tensor in graph.tensors.items()}
    for node in graph.nodes:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        rows = bool(attributes.get("transB"))  # whether a matrix is [out,in]
        if node.op_type in INTEGER_INPUTS:
            zero, weight = (_input(node, position) for position in INTEGER_INPUTS[node.op_type])
        elif node.op_type in FLOAT_OPERATIONS:
            activation = graph.dequantizer(node.input[0], *REARRANGING)
            dequantizer, turned = graph.weight_dequantizer(node)
            if activation is None or dequantizer is None:
                continue
            zero, weight, rows = _input(activation, 2), _input(dequantizer, 0), rows != turned
        else:
            continue
        if types.get(zero) == INT8 or types.get(weight) != INT8:
            continue
        levels = int8_values(graph.tensors[weight], folder)
        if "Conv" in node.op_type:
            yield levels, int(attributes.get("group", 1))
        elif levels.ndim > 1:
            yield (levels if rows else levels.swapaxes(-1, -2)).reshape(-1, levels.shape[-1 if rows else -2]), 1


def _input(node: Any, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""
