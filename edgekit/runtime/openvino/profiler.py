"""Profile with OpenVINO's performance counters, which name the kernel that ran each node of the compiled graph."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.engine import import_runtime
from edgekit.runtime.openvino.engine import GROUP, compile_for_cpu, config_of, core
from edgekit.runtime.profile import (
    OpProfile,
    Profile,
    Ran,
    add_times,
    matrix_macs,
    product,
    random_input,
    with_surroundings,
)
from edgekit.support.weight_pairs import LARGEST_SUM, count_saturating

CONVOLUTIONS = ("Convolution", "GroupConvolution")
TRANSPOSED = ("ConvolutionBackpropData", "GroupConvolutionBackpropData")
PRODUCTS = (*CONVOLUTIONS, *TRANSPOSED, "MatMul", "FullyConnected", "ScaledDotProductAttention")
LAYOUT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze")
MOVES = (*LAYOUT, "Reorder", "Convert", "FakeQuantize", "Pad")
"""Nodes of the compiled graph that only convert, pad or rearrange values."""
DECOMPRESSION = ("Convert", "Subtract", "Multiply")
INTEGER = re.compile(r"_[iu]8$", re.IGNORECASE)
ADDED = re.compile(r"(_original|/Dequantization\w+)+$")  # suffixes that the low-precision passes add to names
COMPRESSED = "FullyConnectedCompressed"
"""Kind of the nodes of linear layers with INT8 weights and float inputs."""
BLOCKS = 5
CALL = re.compile(r"(.+?)(?:_(\d+))?/")
"""The name that PyTorch gives to a call, in that of an operation: "linear" and then "linear_1"."""
UNSEEN = "no node of OpenVINO's compiled graph names it as its origin"
INSIDE = "OpenVINO computes it inside of a fused subgraph, whose kernels it doesn't name"


@dataclass(frozen=True)
class _RanNode:
    """A node of the compiled graph that ran."""

    kernel: str
    kind: str
    origins: tuple[str, ...]
    ms: float
    inputs: tuple[int, ...] = ()
    """Positions of the nodes that make its inputs."""
    converted: int = 0
    """Number of values that it does nothing else with than to convert them between float and 8 bits."""

    @property
    def int8(self) -> bool:
        return INTEGER.search(self.kernel) is not None

    @property
    def is_product(self) -> bool:
        return self.kind.startswith(PRODUCTS)  # such as FullyConnectedQuantized


def profile(model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
    """Compile the model with performance counters, and find the node that ran each product of the file."""
    ov = import_runtime("openvino")
    network = core().read_model(str(model), str(model.with_suffix(".bin")))
    feeds = []
    for port in network.inputs:
        sizes = [None if size.is_dynamic else size.get_length() for size in port.partial_shape]
        feeds.append(random_input(port.node.friendly_name, sizes, np.dtype(port.element_type.to_dtype())))
    network.reshape({port: list(feed.shape) for port, feed in zip(network.inputs, feeds, strict=True)})
    config = {**config_of(options), "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": "YES"}
    nodes = _run(compile_for_cpu(network, config), feeds, runs)
    products = _products(network, nodes, config)
    measured = Profile(
        f"OpenVINO {ov.__version__.split('-')[0]}'s performance counters, which name the kernel that ran each node "
        "of the compiled graph. The MACs come from the shapes in the model file. If a layer's input may be quantized "
        "at run time, a run of one such layer told whether it is.",
        tuple(op for op, _ in products),
        add_times((node.kind, node.int8 if node.is_product else None, node.ms) for node in nodes),
    )
    places = {id(node): place for place, (_, node) in reversed([*enumerate(products)])}
    ran = [
        Ran(
            0.0 if node.is_product and id(node) in places else node.ms,
            node.inputs,
            places.get(id(node)),
            node.kind in MOVES or node.converted > 0,
            node.converted,
        )
        for node in nodes
    ]
    return with_surroundings(measured, ran)


def _run(compiled: Any, feeds: Sequence[Any], runs: int) -> list[_RanNode]:
    """Nodes that ran, in order, each with the median of its mean times in blocks of runs.

    A counter is the mean of all runs so far in whole microseconds. The slow first run is in no block.
    """
    request = compiled.create_infer_request()
    request.infer(feeds)
    counted, before, blocks = 1, _sums(request, 1), min(BLOCKS, runs)
    means: dict[str, list[float]] = {name: [] for name in before}
    for block in range(blocks):
        size = runs * (block + 1) // blocks - runs * block // blocks
        for _ in range(size):
            request.infer(feeds)
        counted += size
        after = _sums(request, counted)
        for name, total in after.items():
            means[name].append((total - before[name]) / size)
        before = after
    compiled_ops = {op.get_friendly_name(): op for op in compiled.get_runtime_model().get_ordered_ops()}
    counters = [counter for counter in request.profiling_info if counter.node_name in compiled_ops]
    positions = {counter.node_name: position for position, counter in enumerate(counters)}
    nodes = []
    for counter in counters:  # a node that took less than a microsecond has the status "not run"
        op, ms = compiled_ops[counter.node_name], max(0.0, median(means[counter.node_name]))
        makers = (value.get_node().get_friendly_name() for value in op.input_values())
        inputs = tuple(positions[maker] for maker in makers if maker in positions)
        origins = _fact(op, "originalLayersNames")
        converted = _converted(op, counter.node_type, len(origins))
        nodes.append(_RanNode(counter.exec_type, counter.node_type, origins, ms, inputs, converted))
    return nodes


def _sums(request: Any, runs: int) -> dict[str, float]:
    """Milliseconds that each node has taken in all runs so far."""
    return {counter.node_name: counter.real_time.total_seconds() * 1e3 * runs for counter in request.profiling_info}


def _fact(op: Any, name: str) -> tuple[str, ...]:
    """One of the facts that the compiled graph has about a node."""
    info = op.get_rt_info()
    return tuple(str(info[name].astype(str)).split(",")) if name in info else ("",)


def _converted(op: Any, kind: str, origins: int) -> int:
    """Number of values, if a node only converts them between float and 8 bits. A Subgraph may hold one quantizer."""
    if origins > 1 or kind not in (*MOVES, "Subgraph") or not op.input_values():
        return 0
    types = {_fact(node, "outputPrecisions")[0][1:] == "8" for node in (op, op.input_value(0).get_node())}
    return math.prod(int(size) for size in op.get_output_shape(0)) if len(types) == 2 else 0


def _products(
    network: Any, nodes: Sequence[_RanNode], config: Mapping[str, str | int]
) -> list[tuple[OpProfile, _RanNode]]:
    """Products of the file, and the nodes that ran them."""
    ran: dict[str, _RanNode] = {}
    for node in sorted(nodes, key=lambda node: not node.is_product):  # attention may be fused into a subgraph
        for name in node.origins:
            ran.setdefault(ADDED.sub("", name), node)
    products = _in_order_of_calls([op for op in network.get_ordered_ops() if op.get_type_name() in PRODUCTS])
    found = [ran.get(op.get_friendly_name()) or _fused(op, ran) for op in products]
    left = [node for node in nodes if node.is_product and node not in found]
    if len(left) == found.count(None):  # such as layers behind polynomials, which OpenVINO says are their origins
        found = [node or left.pop(0) for node in found]
    quantizes_inputs = cache(partial(_quantizes_inputs, config=config))
    ops = []
    for op, each in zip(products, found, strict=True):
        name, node = op.get_friendly_name(), each or _RanNode("unknown", "", (), 0.0)
        operands = (_quantized(op.input_value(0), LAYOUT), _quantized(op.input_value(1), (*LAYOUT, *DECOMPRESSION)))
        why = UNSEEN if not node.kind else INSIDE if all(operands) and node.kind == "Subgraph" else ""
        int8, ms = node.int8, node.ms if node.is_product else None
        if node.kind == COMPRESSED:
            inputs = _macs(op) // math.prod(map(int, op.get_output_shape(0)))
            int8 = quantizes_inputs(inputs)
        ops.append((product("OpenVINO", OpProfile(name, node.kernel, _macs(op), int8, ms, why), operands), node))
    return ops


def _quantizes_inputs(inputs: int, config: Mapping[str, str | int]) -> bool:
    """Whether OpenVINO quantizes the inputs of a layer with INT8 weights and this many inputs at run time.

    No name of a kernel tells, so a layer of this kind runs with ranges at run time and without.
    """
    ov = import_runtime("openvino")
    operations, feed = ov.opset13, np.linspace(0.01, 1, inputs, dtype=np.float32)[None]
    source, levels = operations.parameter(feed.shape, np.float32), np.ones((16, inputs), np.int8)
    weights = operations.multiply(operations.convert(levels, np.float32), np.full((16, 1), 0.1, np.float32))
    layer = ov.Model([operations.matmul(source, weights, False, True)], [source])
    one, other = (
        compile_for_cpu(layer, {**config, **changes}).create_infer_request().infer([feed])[0]
        for changes in ({}, {GROUP.upper(): "0"})
    )
    return not np.array_equal(one, other)


def _in_order_of_calls(products: Sequence[Any]) -> list[Any]:
    """Products in the order in which PyTorch called each operation, where their names tell it.

    OpenVINO sorts them by their edges instead, so that q, k and v may have other places than in the network.
    """
    calls = [
        (match[1], int(match[2] or 0)) if (match := CALL.match(op.get_friendly_name())) else ("", 0) for op in products
    ]
    pairs = sorted(zip(calls, products, strict=True), key=lambda pair: pair[0][1])
    waiting = {kind: iter([op for call, op in pairs if call[0] == kind]) for kind, _ in calls}
    return [next(waiting[kind]) for kind, _ in calls]


def _fused(op: Any, ran: Mapping[str, _RanNode]) -> _RanNode | None:
    """Node of a product that has the name of the bias or factor which was fused into it."""
    for after in op.output(0).get_target_inputs():
        node = ran.get(after.get_node().get_friendly_name())
        if after.get_node().get_type_name() in ("Add", "Multiply") and node is not None and node.is_product:
            return node
    return None


def _macs(op: Any) -> int:
    kind = op.get_type_name()
    left, right, out = (
        [int(size) for size in shape]
        for shape in (op.get_input_shape(0), op.get_input_shape(1), op.get_output_shape(0))
    )
    taps = right[2:] if kind.startswith("Group") else right[1:]
    if kind in CONVOLUTIONS:
        return math.prod(out) * math.prod(taps)
    if kind in TRANSPOSED:
        return math.prod(left) * math.prod(taps)
    if kind == "ScaledDotProductAttention":
        return (math.prod(left) + math.prod(out)) * int(right[-2])
    return matrix_macs(left, right, out)


def _quantized(output: Any, passed: Sequence[str]) -> bool:
    """Whether a value comes from a FakeQuantize or an 8-bit constant, looking through the operations in `passed`."""
    return any(
        node.get_type_name() == "FakeQuantize"
        or (node.get_type_name() == "Constant" and node.get_element_type().get_type_name() in ("i8", "u8"))
        for node in _origins(output, passed)
    )


def _origins(output: Any, passed: Sequence[str]) -> Iterator[Any]:
    """The operation that makes a value, and those before it, as long as each is one of `passed`."""
    node = output.get_node()
    yield node
    while node.get_type_name() in passed:
        node = node.input_value(0).get_node()
        yield node


def count_pairs(model: Path) -> int:
    """Number of pairs that can saturate: of INT8 weights that meet quantized activations, and of quantized activations.

    OpenVINO shifts int8 activations to uint8, so their type makes no difference.
    """
    network = core().read_model(str(model), str(model.with_suffix(".bin")))
    return sum(_pairs(operation) for operation in network.get_ordered_ops())


def _pairs(operation: Any) -> int:
    kind = operation.get_type_name()
    if kind not in (*CONVOLUTIONS, "MatMul", "ScaledDotProductAttention"):
        return 0
    if _fake_quantize(operation.input_value(0)) is None:
        return 0
    levels = _int8_levels(operation.input_value(1))
    if levels is None:
        return _pairs_of_activations(operation) if kind not in CONVOLUTIONS else 0
    if kind == "GroupConvolution":
        return count_saturating(levels.reshape(-1, *levels.shape[2:]), levels.shape[0])
    if kind == "Convolution":
        return count_saturating(levels)
    rows = levels if operation.get_attributes()["transpose_b"] else levels.swapaxes(-1, -2)
    return count_saturating(rows.reshape(-1, rows.shape[-1]))


def _pairs_of_activations(operation: Any) -> int:
    """Pairs in the second of two quantized activations: all can saturate, or none if a Clamp limits their levels."""
    quantizer = _fake_quantize(operation.input_value(1))
    if quantizer is None:
        return 0
    low, high = (float(quantizer.input_value(place).get_node().data.ravel()[0]) for place in (3, 4))
    scale = (high - low) / (quantizer.get_attributes()["levels"] - 1)
    for node in _origins(quantizer.input_value(0), LAYOUT):
        if node.get_type_name() == "Clamp":
            limits = node.get_attributes()
            if max(-limits["min"], limits["max"]) <= (LARGEST_SUM // 2 + 0.5) * scale:
                return 0
    *batch, rows, depth = (int(size) for size in operation.get_input_shape(1))
    transposed = operation.get_attributes().get("transpose_b", True)
    return math.prod(batch) * (rows * (depth // 2) if transposed else depth * (rows // 2))


def _fake_quantize(output: Any) -> Any:
    """The FakeQuantize that a value comes from, or None."""
    return next((node for node in _origins(output, LAYOUT) if node.get_type_name() == "FakeQuantize"), None)


def _int8_levels(output: Any) -> NDArray[np.int8] | None:
    """INT8 weights in the shape in which an operation takes them; None if they are something else."""
    nodes = list(_origins(output, (*LAYOUT, *DECOMPRESSION)))
    if nodes[-1].get_type_name() != "Constant" or nodes[-1].get_element_type().get_type_name() != "i8":
        return None
    levels: NDArray[np.int8] = nodes[-1].data
    for node in reversed(nodes[:-1]):
        if node.get_type_name() == "Transpose":
            levels = levels.transpose(node.input_value(1).get_node().data.ravel())
        elif node.get_type_name() in LAYOUT:
            levels = levels.reshape([int(size) for size in node.get_output_shape(0)])
    return levels
