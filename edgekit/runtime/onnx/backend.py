"""Compiles for ONNX Runtime: one ONNX file, with external data above protobuf's limit of 2 GB.

The exported model is rewritten into operations for which ONNX Runtime has faster kernels, activations from INT8 to INT8
among them, which its optimizer doesn't choose by itself. And each layer is computed as the file says: ONNX Runtime has
no integer kernel for some layers, such as a convolution whose output isn't quantized, and would dequantize their
weights in every run; and it quantizes the weights of a float convolution between two INT8 layers, with one scale for
all channels.
"""

import json
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch.fx import GraphModule

from edgekit.compat.torch_export import decomposing_by_node
from edgekit.compiler.graph import example_input, layer_name, operand
from edgekit.compiler.layers import DEQUANTIZE_CHANNELS, quantizers
from edgekit.compiler.layouts import pad_depthwise
from edgekit.compiler.placement import fold_weights
from edgekit.compiler.torch_compat import compiled
from edgekit.config.runtimes import DeviceClass, Runtime
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.metadata import Metadata
from edgekit.runtime.onnx.engine import REARRANGING, OnnxGraph, read_onnx
from edgekit.runtime.onnx.profiler import nodes_that_ran

DOMAIN = "com.microsoft"
DIMENSIONS = 4


class EditedGraph(OnnxGraph):
    """A graph whose nodes a pass replaces. The pass may add to `tensors`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self._model = model

    def array(self, name: str) -> NDArray[Any]:
        """The value of a constant."""
        return numpy_helper.to_array(self.tensors[name])

    def add(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.tensors[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def use_domain(self, domain: str) -> None:
        """Let the model use operations of another domain."""
        if all(known.domain != domain for known in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(domain, 1))

    def model(self, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
        """A model of these nodes, without nodes and constants that nothing uses.

        It empties the old model, whose memory protobuf frees only as a whole, and takes the constants out of `tensors`.
        """
        old = self._model
        used = {value.name for value in old.graph.output}
        live_nodes = []
        for node in reversed([*nodes]):
            if used.intersection(node.output):
                live_nodes.append(node)
                used.update(node.input)
        del old.graph.node[:]
        del old.graph.initializer[:]
        result = onnx.ModelProto()
        result.CopyFrom(old)
        result.graph.node.extend(reversed(live_nodes))
        for name in list(self.tensors):
            tensor = self.tensors.pop(name)
            if name in used:
                result.graph.initializer.append(tensor)
        return result


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def pool_means(model: onnx.ModelProto) -> None:
    """Replace each ReduceMean over height and width of [N,C,H,W] by GlobalAveragePool.

    The means must keep their axes. The shapes come from the model's value_info.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*model.graph.value_info, *model.graph.input)
    }
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = np.sort(numpy_helper.to_array(constants[node.input[1]]) % DIMENSIONS)
        if (
            ranks.get(node.input[0]) == DIMENSIONS
            and axes.tolist() == [2, 3]
            and attributes_of(node).get("keepdims", 1)
        ):
            node.CopyFrom(helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name))


def fuse_integer_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn each quantized Linear into one MatMulIntegerToFloat (com.microsoft domain) with its bias.

    ONNX Runtime's optimizer does that without the bias, and only while another optimizer is off. Returns a new model
    and empties the old one.
    """
    graph = EditedGraph(model)
    replaced: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        fused = _fused_matmul(graph, node) if node.op_type in ("MatMul", "Gemm") else None
        if fused is not None:
            new, last = fused
            replaced[last.output[0]] = new
            dropped.add(node.output[0])
    if replaced:
        graph.use_domain(DOMAIN)
    return graph.model(
        replaced.get(node.output[0], node)
        for node in graph.nodes
        if node.output[0] in replaced or node.output[0] not in dropped
    )


def _fused_matmul(graph: EditedGraph, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Integer node for a MatMul or Gemm of dequantized operands, and the last node that it replaces."""
    left = graph.dequantizer(node.input[0])
    right, is_transposed = graph.weight_dequantizer(node)
    if left is None or right is None or right.input[0] not in graph.tensors:
        return None
    gemm = attributes_of(node)
    if gemm.get("transA") or gemm.get("alpha", 1.0) != 1.0 or gemm.get("beta", 1.0) != 1.0:
        return None
    weight = graph.array(right.input[0])
    if is_transposed != bool(gemm.get("transB")):
        weight = weight.T
    last, bias = _with_bias(graph, node, weight.shape[1:])
    name = f"{node.output[0]}_int8"
    scale = graph.add(f"{name}_scale", graph.array(right.input[1]).reshape(-1))
    inputs = [
        left.input[0],
        graph.add(f"{name}_weight", weight),
        left.input[1],
        scale,
        left.input[2] if len(left.input) > 2 else "",  # without a zero point, which is an optional input, it is 0
        graph.add(f"{name}_zero", np.zeros(weight.shape[1], weight.dtype)),
    ]
    outputs = [last.output[0]]
    return helper.make_node("MatMulIntegerToFloat", inputs + bias, outputs, name=name, domain=DOMAIN), last


def _with_bias(graph: EditedGraph, node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[onnx.NodeProto, list[str]]:
    """Last node of a product and the names of its biases: the Add and one name, or the product and an empty list."""
    bias, readers = list(node.input[2:]), graph.readers[node.output[0]]
    if not bias and len(readers) == 1 and readers[0].op_type == "Add":
        other = next(name for name in readers[0].input if name != node.output[0])
        if other in graph.tensors and graph.array(other).shape == shape:
            return readers[0], [other]
    return node, bias


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


Factor: TypeAlias = tuple[onnx.NodeProto, str, str]
"""The operation that makes a factor in INT8, and the names of the factor's scale and zero point."""


def fuse_int8_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute each quantized HardSwish and SiLU of a quantized x as QLinearMul, the product of x and an INT8 factor.

    That of HardSwish is (x + 3) / 6 of the clipped x: its levels with another scale, if 3 is a whole number of levels.
    That of SiLU is a QLinearSigmoid. Returns a new model and empties the old one.
    """
    graph, nodes = EditedGraph(model), list[onnx.NodeProto]()
    for node in graph.nodes:
        nodes += (_fused_activation(graph, node) if node.op_type == "QuantizeLinear" else None) or [node]
    if len(nodes) > len(graph.nodes):
        graph.use_domain(DOMAIN)
    return graph.model(nodes)


def _fused_activation(graph: EditedGraph, quantizer: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The operations that make the levels of a quantized activation from those of its input; None if there are none."""
    swish, product = (graph.made_by(quantizer.input[0], kind) for kind in ("HardSwish", "Mul"))
    value = swish.input[0] if swish is not None else None if product is None else _input_of_silu(graph, product)
    source = None if value is None else graph.dequantizer(value)
    if source is None or len(source.input) < 3 or len(quantizer.input) < 3:
        return None
    name = f"{quantizer.output[0]}_factor"
    factor = (_clipped if swish is not None else _sigmoid)(graph, source, name)
    if factor is None:
        return None
    first, *grid = factor
    inputs = [*source.input, name, *grid, *quantizer.input[1:]]
    return [first, helper.make_node("QLinearMul", inputs, quantizer.output, name=f"{name}_product", domain=DOMAIN)]


def _input_of_silu(graph: EditedGraph, product: onnx.NodeProto) -> str | None:
    """The x of x * sigmoid(x)."""
    for value, other in (product.input, reversed(product.input)):
        sigmoid = graph.made_by(other, "Sigmoid")
        if sigmoid is not None and sigmoid.input[0] == value:
            return str(value)
    return None


def _clipped(graph: EditedGraph, source: onnx.NodeProto, name: str) -> Factor | None:
    """The levels of x clipped to [-3, 3], which mean (x + 3) / 6; None if 3 is no whole number of levels."""
    scale, zero = (graph.array(part) for part in source.input[1:])
    three, limits = round(3 / float(scale)), np.iinfo(zero.dtype)
    low, high = int(zero) - three, min(int(zero) + three, limits.max)
    if low < limits.min or not np.isclose(three * scale, 3, rtol=1e-5):
        return None
    ends = [graph.add(f"{name}_{end}", np.array(level, zero.dtype)) for end, level in (("min", low), ("max", high))]
    clip = helper.make_node("Clip", [source.input[0], *ends], [name], name=name)
    return clip, graph.add(f"{name}_scale", scale / np.float32(6)), ends[0]


def _sigmoid(graph: EditedGraph, source: onnx.NodeProto, name: str) -> Factor:
    """The sigmoid of x, in levels of 1/256."""
    zero = graph.array(source.input[2])
    grid = [
        graph.add(f"{name}_scale", np.array(1 / 256, np.float32)),
        graph.add(f"{name}_zero", np.array(np.iinfo(zero.dtype).min, zero.dtype)),
    ]
    sigmoid = helper.make_node("QLinearSigmoid", [*source.input, *grid], [name], name=name, domain=DOMAIN)
    return sigmoid, grid[0], grid[1]


OPSET = 20


class Backend:
    """Compiler for ONNX Runtime."""

    def compile(self, graph: GraphModule, folder: Path, metadata: Metadata, device_class: DeviceClass) -> Artifact:
        fold_weights(graph)
        if not device_class.is_arm:
            pad_depthwise(graph)
        is_int8, layers = next(quantizers(graph), None) is not None, _layers_of_weights(graph)
        # MatMul + Add is faster than Gemm, and Gelu alone is faster than BiasGelu, which has an older kernel.
        disabled, saving = ("MatMulAddFusion", "BiasGeluFusion"), partial(save, folder=folder)
        # The model isn't assigned to a variable, so that its memory is free while a session checks the file.
        if is_int8:
            saved = settle(_exported(graph, metadata), folder / "model.onnx", disabled, saving)
        else:
            saved = Settled(saving(_exported(graph, metadata)), disabled)
        return Artifact(
            "model.onnx",
            saved.files,
            session={"disabled_optimizers": [*saved.disabled_optimizers]},
            float_layers=frozenset(name for weights in saved.folded for name in layers.get(weights, ())),
        )

    def replace_metadata(self, model_file: Path, metadata: Metadata) -> None:
        model = onnx.load(model_file, load_external_data=False)
        describe(model, metadata)
        model_file.write_bytes(model.SerializeToString())


def _exported(graph: GraphModule, metadata: Metadata) -> onnx.ModelProto:
    example = example_input(graph)
    with compiler_errors("onnx"), decomposing_by_node():
        program = torch.onnx.export(
            torch.export.export(compiled(graph), (example,)),
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del program
    pool_means(model)
    strip(model)
    model = fuse_int8_activations(fuse_integer_matmul(model))
    describe(model, metadata)
    return model


def describe(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Set the metadata of a model: edgekit's own, the names of classes by YOLO's convention, and ModelAPI's entries."""
    entries = {"edgekit": metadata.own()}
    if metadata.classes:
        entries["names"] = json.dumps(metadata.classes)
    helper.set_model_props(model, entries | {f"model_info {key}": text for key, text in metadata.model_info().items()})


def _layers_of_weights(graph: GraphModule) -> dict[str, list[str]]:
    """Names of the layers that use each tensor of INT8 weights, by its name in the file."""
    weights = graph.graph.find_nodes(op="call_function", target=DEQUANTIZE_CHANNELS)
    return {str(operand(node).target): [layer_name(user) for user in node.users] for node in weights}


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which are half of a small file."""
    del model.metadata_props[:]
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")


def save(model: onnx.ModelProto, folder: Path) -> tuple[str, ...]:
    """Write model.onnx, and model.onnx.data if the weights don't fit in one protobuf; returns the files' names."""
    size, limit = sum(len(tensor.raw_data) for tensor in model.graph.initializer), Runtime.find("onnx").file_limit
    assert limit is not None
    with compiler_errors("onnx"):
        (folder / "model.onnx.data").unlink(missing_ok=True)  # onnx would append to it
        if size < limit.size_bytes:
            onnx.save(model, folder / "model.onnx")
            return ("model.onnx",)
        onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    return ("model.onnx", "model.onnx.data")
