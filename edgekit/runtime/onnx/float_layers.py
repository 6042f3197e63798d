"""Makes ONNX Runtime compute each layer as its file says, instead of INT8 layers in float and float layers in INT8.

It has no integer kernel for some layers, such as a convolution whose output isn't quantized, and would dequantize their
weights in every run. And it quantizes the weights of a float convolution between two INT8 layers, with one scale for
all channels.
"""

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgekit.runtime.onnx.onnx_graph import REARRANGING, read_onnx
from edgekit.runtime.onnx.profiler import nodes_that_ran
from edgekit.runtime.onnx.rewrites import EditedGraph, attributes_of

QUANTIZES_WEIGHTS = "WeightBiasQuantization"
"""ONNX Runtime's optimizer that quantizes float weights between INT8 layers, and the biases of INT8 layers."""
QUANTIZED_LAYERS = ("Conv", "ConvTranspose", "Gemm")
"""Operations whose weights and biases it quantizes."""
PASSED = ("Pad", *REARRANGING)
"""Operations that may stand between DequantizeLinear and the layer that reads its values."""
ACTIVATIONS = ("Relu", "Clip")
"""Activations that the integer kernel of a layer applies."""


@dataclass(frozen=True)
class Settled:
    """A saved INT8 model of which ONNX Runtime computes every layer as the file says."""

    files: tuple[str, ...]
    """Names of its files."""
    disabled_optimizers: tuple[str, ...]
    """Optimizers that its session has to switch off."""
    folded: frozenset[str] = frozenset()
    """Names of the INT8 weights that became float."""


def settle(
    model: onnx.ModelProto, path: Path, disabled: Sequence[str], save: Callable[[onnx.ModelProto], tuple[str, ...]]
) -> Settled:
    """Save an INT8 model with float weights where ONNX Runtime has no integer kernel. Empties the model.

    `save` writes `path` and other files, and `disabled` are the optimizers that its session switches off anyway.
    """
    off, folded = tuple(disabled), frozenset[str]()
    while True:
        if QUANTIZES_WEIGHTS not in off and _has_float_layer_in_between(EditedGraph(model)):
            model, off = quantize_biases(model), (*off, QUANTIZES_WEIGHTS)
        files = save(model)
        del model  # which frees its memory for the session
        ran = _dequantized_constants(path, off)
        if not ran:
            return Settled(files, off, folded)
        model, folded = fold(onnx.load(path), ran), folded | ran


def _dequantized_constants(path: Path, disabled: Sequence[str]) -> set[str]:
    """Names of the constants that a session dequantizes in every run."""
    ran = nodes_that_ran(path, disabled)
    file = read_onnx(path)
    origins = (file.origin(name) for name, operation in ran if operation == "DequantizeLinear")
    return {node.input[0] for node in origins if node is not None and node.input[0] not in file.makers}


def fold(model: onnx.ModelProto, constants: Set[str]) -> onnx.ModelProto:
    """Store these constants in float, and let the layers that use them read values that weren't quantized.

    Q/DQ of these values stays where an integer kernel needs it. Returns a new model and empties the old one.
    """
    graph = EditedGraph(model)
    folded = {
        node.output[0]: _dequantized(graph, node)
        for node in graph.nodes
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    layers = [node for node in graph.nodes if graph.behind("".join(node.input[1:2]), *PASSED) in folded]
    for name, value in folded.items():
        del graph.makers[name]
        graph.add(name, value)
    for layer in layers:
        _read_float(graph, graph.behind(layer.input[0], *PASSED), layers)
    return graph.model(node for node in graph.nodes if node.output[0] not in folded)


def _dequantized(graph: EditedGraph, node: onnx.NodeProto) -> NDArray[np.float32]:
    """The result of a DequantizeLinear of constants."""
    levels, scale, *zero = (graph.array(name).astype(np.float32) for name in node.input)
    axis = attributes_of(node).get("axis", 1)
    shape = np.where(np.arange(levels.ndim) == axis % max(levels.ndim, 1), -1, 1) if scale.ndim else ()
    centred: NDArray[np.float32] = levels - zero[0].reshape(shape) if zero else levels
    return centred * scale.reshape(shape)


def _read_float(graph: EditedGraph, value: str, layers: Collection[onnx.NodeProto]) -> None:
    """Replace dequantized values by those before Q/DQ, if only these layers read them and no kernel writes INT8."""
    dequantizer = graph.dequantizer(value)
    quantizer = None if dequantizer is None else graph.made_by(dequantizer.input[0], "QuantizeLinear")
    if quantizer is None or _reads_int8(graph, graph.behind(quantizer.input[0], *ACTIVATIONS)):
        return
    readers = graph.after(quantizer.output[0], "DequantizeLinear", *PASSED)
    if all(any(reader is layer for layer in layers) for reader in readers):
        for reader in graph.readers[value]:
            reader.input[0] = quantizer.input[0]


def _reads_int8(graph: EditedGraph, value: str) -> bool:
    """Whether the operation that makes a value reads dequantized values, so that it may have an integer kernel."""
    maker = graph.makers.get(value)
    return maker is not None and any(graph.dequantizer(name) for name in maker.input)


def _has_float_layer_in_between(graph: EditedGraph) -> bool:
    """Whether a layer with float weights reads dequantized values and its output is quantized."""
    return any(
        node.op_type in QUANTIZED_LAYERS
        and node.input[1] in graph.tensors
        and graph.dequantizer(node.input[0])
        and any(reader.op_type == "QuantizeLinear" for reader in graph.after(node.output[0], *ACTIVATIONS))
        for node in graph.nodes
    )


def quantize_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the biases of INT8 layers in int32, without which these have no integer kernel.

    Returns a new model and empties the old one.
    """
    graph, nodes = EditedGraph(model), list[onnx.NodeProto]()
    for node in graph.nodes:
        scales = [made.input[1] for name in node.input[:2] if (made := graph.dequantizer(name))]
        if node.op_type in QUANTIZED_LAYERS and len(scales) == 2 and set(node.input[2:]) & graph.tensors.keys():
            left, right, bias = (graph.array(name) for name in (*scales, node.input[2]))
            scale, name = (left * right).reshape(-1), f"{node.output[0]}_bias"
            parts = [
                graph.add(f"{name}_int32", np.round(bias / scale).astype(np.int32)),
                graph.add(f"{name}_scale", scale),
            ]
            nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=name, axis=0))
            node.input[2] = name
        nodes.append(node)
    return graph.model(nodes)
