"""Repairs of the flatbuffers that LiteRT's converter writes, and the INT8 weights that it never saw.

The converter would hold several copies of the weights in float. It gets zeros instead, which it stores as a single
number. Its model has the right scales and room for the weights, which are then put in their places.
"""

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constant, drop_constants, operand, replace_layer, store_of
from edgekit.compiler.layers import DEQUANTIZE, QUANTIZE_CHANNELS, dense_layers, int8_weight
from edgekit.errors import CompileError

Key: TypeAlias = tuple[int, bytes]
"""Identifies a weight in the graph and in the .tflite file: its number of values, and its scales as float32 bytes."""
Levels: TypeAlias = NDArray[np.int8]
"""Weights in INT8, [out,in] or [out,in,H,W]."""
Dynamic: TypeAlias = tuple[set[str], Levels, NDArray[np.float32]]
"""Names of layers with the same weights whose inputs get ranges at run time, and their weights with scales [out]."""
AT_ONCE = 1 << 20
"""Weights rounded per step; each needs several float64 temporaries."""


@torch.no_grad()
def take_weights(graph: GraphModule) -> dict[Key, Levels]:
    """Replace the float weights before Q/DQ by zeros, which take no memory, in place. Returns the weights.

    Weights with the same key but other values, such as two fixed filters, stay in the graph.
    """
    taken: dict[Key, list[tuple[Node, Tensor]]] = {}
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_CHANNELS):
        weight, scales = (constant(graph, operand(node, place)) for place in (0, 1))
        if weight is None or scales is None or node.args[3] != 0:
            continue
        levels = store_of(graph).keep(_rounded(weight, scales, *node.args[4:6]))
        taken.setdefault((levels.numel(), scales.numpy().tobytes()), []).append((node, levels))
    alike = {key: group for key, group in taken.items() if all(torch.equal(group[0][1], other) for _, other in group)}
    for node, levels in (each for group in alike.values() for each in group):
        _replace_by_zeros(graph, node, levels.shape)
    return {key: group[0][1].numpy() for key, group in alike.items()}


@torch.no_grad()
def take_dynamic(graph: GraphModule) -> dict[bytes, Dynamic]:
    """Let linear layers whose input isn't quantized have float weights, in place. Returns the INT8 ones by these."""
    taken: dict[bytes, Dynamic] = {}
    for layer in dense_layers(graph):
        quantizer = int8_weight(layer.node)
        if layer.is_conv or quantizer is None or layer.source.target is DEQUANTIZE:
            continue
        weight, scales = quantizer.weight_and_scale(graph)
        levels = _rounded(weight, scales, quantizer.low, quantizer.high)
        exact = levels * scales[:, None]
        value = add_constant(graph, layer.node, f"{layer.node.name}.dynamic", exact)
        replace_layer(graph, layer.weight, value)
        replace_layer(graph, quantizer.node, value)
        taken.setdefault(_digest(exact.numpy()), (set(), levels.numpy(), scales.numpy()))[0].add(layer.name)
    return taken


def _digest(data: Any) -> bytes:
    """Hash of the content of a float weight or of its buffer in a flatbuffer; empty without content."""
    return b"" if data is None else hashlib.sha256(np.ascontiguousarray(data).tobytes()).digest()


def _rounded(weight: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
    """int8 levels of a weight as LiteRT's converter rounds them: in double, with halves away from zero."""
    columns = scales.double().view(-1, *[1] * (weight.ndim - 1))
    rows = max(1, AT_ONCE // weight[0].numel())
    parts = []
    for values, scale in zip(torch.split(weight, rows), torch.split(columns, rows), strict=True):
        exact = values.double() / scale
        whole = exact.trunc()
        levels = (whole + exact.sign() * ((exact - whole).abs() >= 0.5)).clamp_(low, high)
        parts.append(levels.to(torch.int8))
    return torch.cat(parts)


def _replace_by_zeros(graph: GraphModule, quantizer: Node, shape: torch.Size) -> None:
    zeros = add_constant(graph, quantizer, f"{quantizer.name}.zeros", torch.zeros(1))
    setattr(graph, str(zeros.target), torch.zeros(1).expand(shape))  # add_constant would store each of them
    zeros.meta["val"] = zeros.meta["val"].expand(shape)
    args, quantizer.args = quantizer.args, (zeros, *quantizer.args[1:])
    drop_constants(graph, args[:1])


DEPTHWISE_AXIS = 3
"""Axis of the channels in the weights of a depthwise convolution, [1,H,W,channels]. All other weights have axis 0."""
WITH_BIAS = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
}
TABULATED = {
    getattr(schema.BuiltinOperator, name)
    for name in ("GELU", "HARD_SWISH", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
}
"""Activations of which XNNPACK makes a table if they are in float between DEQUANTIZE and QUANTIZE."""
TOLERANCE = 1e-3
"""Largest relative difference of a bias's scale that is left."""
VERSION = 2
"""Version of the operations QUANTIZE and DEQUANTIZE that knows int8."""
BY_ROW_VERSION = 12
"""Version of FULLY_CONNECTED that knows a scale for each output beside a float input. tflite-runtime 2.14 lacks it."""


def finish(
    path: Path, entries: Sequence[tuple[bytes, bytes]], weights: Mapping[Key, Levels], dynamic: Mapping[bytes, Dynamic]
) -> tuple[str, str, frozenset[str]]:
    """Repair the flatbuffer, and add weights and metadata by name.

    Returns the names of its input and its output, and those of the layers in `dynamic` that stay in float.
    """
    model = schema.ModelT.InitFromPackedBuf(np.memmap(path, np.uint8, "r"))
    in_float = put_dynamic(model, dynamic)
    put_weights(model, weights)
    rescale_biases(model)
    tabulate_activations(model)
    float_ends(model)
    for name, content in entries:
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, _add_buffer(model, list(content))
        model.metadata = [*(model.metadata or []), entry]
    graph = model.subgraphs[0]
    image, logits = (graph.tensors[ends[0]].name.decode() for ends in (graph.inputs, graph.outputs))
    file = packed(model, path.stat().st_size + sum(len(content) for _, content in entries))
    del model, graph  # which read the old file
    path.write_bytes(file)
    return image, logits, frozenset(in_float)


def packed(model: schema.ModelT, size: int) -> memoryview:
    """A model as a flatbuffer, whose size is about `size` bytes."""
    builder = flatbuffers.Builder(size + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return memoryview(builder.Bytes)[builder.Head() :]


def put_weights(model: Any, weights: Mapping[Key, Levels]) -> None:
    """Give a model (`ModelT`) that was made from the graph with zeros its weights.

    Raises CompileError if it has no tensor for some, because the converter turned the graph into another one.
    """
    tensors = [(tensor, _key(tensor)) for graph in model.subgraphs for tensor in graph.tensors]
    used = {tensor.buffer for tensor, key in tensors if key not in weights}
    for tensor, key in tensors:
        if key in weights and tensor.buffer not in used:
            model.buffers[tensor.buffer].data = None
    free = {index for index, buffer in enumerate(model.buffers) if buffer.data is None} - used - {0}
    buffers: dict[Key, int] = {}
    for place, (tensor, key) in enumerate(tensors, start=1):
        if key is None or key not in weights:
            continue
        if key not in buffers:
            buffers[key] = _take_buffer(model, free, place)
            model.buffers[buffers[key]].data = _in_order_of(weights[key], tensor)
        tensor.buffer = buffers[key]
    if missing := weights.keys() - buffers.keys():
        shapes = [list(weights[key].shape) for key in missing]
        raise CompileError(f"LiteRT's converter left no tensor for the weights of shape {shapes}")


def _key(tensor: Any) -> Key | None:
    """The key of an INT8 tensor with scales; None for others."""
    details = tensor.quantization
    if tensor.type != schema.TensorType.INT8 or details is None or details.scale is None:
        return None
    return math.prod(map(int, tensor.shape)), np.asarray(details.scale, np.float32).tobytes()


def _take_buffer(model: Any, free: set[int], place: int) -> int:
    """Take a free buffer for the tensor at `place`, counted from 1, and return its index; append one if there is none.

    The converter gives a tensor the buffer of its place, except after operations that contain others, such as a sum
    over windows.
    """
    index = place if place in free else min(free, default=len(model.buffers))
    free.discard(index)
    return _add_buffer(model, None) if index == len(model.buffers) else index


def _in_order_of(values: Levels, tensor: Any) -> NDArray[np.uint8]:
    """Bytes of the weights in the order of a tensor's axes, where the kernel's height and width precede the inputs."""
    if values.ndim == 4:
        depthwise = tensor.quantization.quantizedDimension == DEPTHWISE_AXIS
        values = values.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def put_dynamic(model: Any, weights: Mapping[bytes, Dynamic]) -> set[str]:
    """Give the fully connected operations of a model (`ModelT`) INT8 weights in place of these float ones.

    Their kernels then quantize the input, with one range for each row. Returns the names of the layers that stay in
    float, because the converter made another operation of them or folded something into their weights.
    """
    left = set[str]().union(*(names for names, _, _ in weights.values()))
    for graph in model.subgraphs if weights else ():
        for operation in graph.operators:
            if _code(model, operation) != schema.BuiltinOperator.FULLY_CONNECTED:
                continue
            source, tensor = (graph.tensors[index] for index in operation.inputs[:2])
            buffer = model.buffers[tensor.buffer]
            if dynamic := weights.get(_digest(buffer.data)):
                names, levels, scales = dynamic
                tensor.type = schema.TensorType.INT8
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale = scales
                tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
                buffer.data = levels.reshape(-1).view(np.uint8)
                left -= names
            if (source.type, tensor.type) == (schema.TensorType.FLOAT32, schema.TensorType.INT8):
                operation.builtinOptions.asymmetricQuantizeInputs = True
                operation_code(model, schema.BuiltinOperator.FULLY_CONNECTED, BY_ROW_VERSION)
    return left


def rescale_biases(model: Any) -> None:
    """Give each bias of a model (`ModelT`) the scale that its kernel assumes.

    A kernel adds the bias to its sum of products, so both must have the same scale: the input's times the weights'.
    Where a concatenation forces another scale on a value, litert-torch 0.10.0 changes the scale after it has quantized
    the biases of the value's other consumers, and doesn't quantize them again. In ese_vovnet19b_slim_dw, four biases
    came out twice as large, and the signal-to-noise ratio of the logits was -0.4 instead of 9.5 dB.
    """
    for graph in model.subgraphs:
        for operation in graph.operators:
            if _code(model, operation) in WITH_BIAS and len(operation.inputs) > 2 and operation.inputs[2] >= 0:
                _rescale(model, graph, operation)


def _rescale(model: Any, graph: Any, operation: Any) -> None:
    values, weights, bias = (graph.tensors[index] for index in operation.inputs[:3])
    data = model.buffers[bias.buffer].data
    if bias.type != schema.TensorType.INT32 or data is None:
        return
    wanted = (_scales(values) * _scales(weights)).astype(np.float32)
    if np.allclose(_scales(bias), wanted, rtol=TOLERANCE, atol=0):
        return
    levels = np.frombuffer(bytes(data), "<i4") * (_scales(bias) / wanted)
    rescaled = copy.copy(bias)  # other operations may share the tensor
    rescaled.quantization = copy.copy(bias.quantization)
    rescaled.quantization.scale = wanted
    rescaled.buffer = _add_buffer(model, np.frombuffer(np.round(levels).astype("<i4").tobytes(), np.uint8))
    operation.inputs = [*operation.inputs[:2], len(graph.tensors), *operation.inputs[3:]]
    graph.tensors.append(rescaled)


def _scales(tensor: Any) -> Any:
    return np.asarray(tensor.quantization.scale, np.float64)


def tabulate_activations(model: Any) -> None:
    """Compute each activation in `TABULATED` from int8 to int8 in float, between DEQUANTIZE and QUANTIZE.

    XNNPACK turns the three operations into one table of 256 values. It doesn't know these activations in int8, which
    LiteRT's own slower kernels would run.
    """
    for graph in model.subgraphs:
        graph.operators = [each for operation in graph.operators for each in _tabulated(model, graph, operation)]


def _tabulated(model: Any, graph: Any, operation: Any) -> Iterator[Any]:
    source, sink = operation.inputs[0], operation.outputs[0]
    if _code(model, operation) not in TABULATED or graph.tensors[source].type != schema.TensorType.INT8:
        yield operation
        return
    inside, outside = _as_float(graph, source), _as_float(graph, sink)
    operation.inputs, operation.outputs = [inside], [outside]
    yield _convert(model, schema.BuiltinOperator.DEQUANTIZE, source, inside)
    yield operation
    yield _convert(model, schema.BuiltinOperator.QUANTIZE, outside, sink)


def float_ends(model: Any) -> None:
    """Let an INT8 model take a float image and return float logits, which its first and last operation convert.

    That is faster than in numpy, outside the model, and LiteRT.js accepts no other input or output.
    """
    graph = model.subgraphs[0]  # others are the bodies of operations
    for side in ("inputs", "outputs"):
        (inside,) = getattr(graph, side)
        if graph.tensors[inside].type != schema.TensorType.INT8:
            continue
        end, name = _as_float(graph, inside), graph.tensors[inside].name
        graph.tensors[end].name, graph.tensors[inside].name = name, name + b"_int8"
        if side == "inputs":
            graph.operators.insert(0, _convert(model, schema.BuiltinOperator.QUANTIZE, end, inside))
        else:
            graph.operators.append(_convert(model, schema.BuiltinOperator.DEQUANTIZE, inside, end))
        setattr(graph, side, [end])
        for entry in (entry for signature in model.signatureDefs or () for entry in getattr(signature, side)):
            entry.tensorIndex = end


def _as_float(graph: Any, index: int) -> int:
    """Add a float tensor like an int8 one. Returns its index."""
    tensor = copy.copy(graph.tensors[index])
    tensor.name += b"_float"
    tensor.type, tensor.quantization, tensor.buffer = schema.TensorType.FLOAT32, None, 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _convert(model: Any, code: int, source: int, to: int) -> Any:
    """An operation QUANTIZE or DEQUANTIZE between two tensors."""
    operation = schema.OperatorT()
    operation.opcodeIndex = operation_code(model, code, VERSION)
    operation.inputs, operation.outputs = [source], [to]
    return operation


def operation_code(model: Any, code: int, version: int) -> int:
    """Index of an operation among those of a file, where it is added unless it is there; at least of this version."""
    for index, known in enumerate(model.operatorCodes):
        if known.builtinCode == code:
            known.version = max(known.version, version)
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = code
    added.version = version
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def _code(model: Any, operation: Any) -> int:
    code: int = model.operatorCodes[operation.opcodeIndex].builtinCode
    return code


def _add_buffer(model: Any, data: Any) -> int:
    """Add a buffer; returns its index."""
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    return len(model.buffers) - 1
