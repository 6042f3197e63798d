"""Repairs biases in the converter's INT8 models, whose scales don't fit those of the inputs.

A kernel adds the bias to its sum of products, so both must have the same scale: the input's times the weights'. Where
a concatenation forces another scale on a value, litert-torch 0.10.0 changes the scale after it has quantized the biases
of the value's other consumers, and doesn't quantize them again. In ese_vovnet19b_slim_dw, four biases came out twice as
large, and the signal-to-noise ratio of the logits was -0.4 instead of 9.5 dB.
"""

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

WITH_BIAS = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
}
TOLERANCE = 1e-3
"""Largest relative difference of a scale that is left."""


def rescale_biases(model: Any) -> int:
    """Give each bias of a model (`ModelT`) the scale that its kernel assumes. Returns the number of biases changed."""
    changed = 0
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            if code in WITH_BIAS and len(operation.inputs) > 2 and operation.inputs[2] >= 0:
                changed += _rescale(model, graph, operation)
    return changed


def _rescale(model: Any, graph: Any, operation: Any) -> bool:
    values, weights, bias = (graph.tensors[index] for index in operation.inputs[:3])
    data = model.buffers[bias.buffer].data
    if bias.type != schema.TensorType.INT32 or data is None:
        return False
    wanted = (_scales(values) * _scales(weights)).astype(np.float32)
    if np.allclose(_scales(bias), wanted, rtol=TOLERANCE, atol=0):
        return False
    levels = np.frombuffer(bytes(data), "<i4") * (_scales(bias) / wanted)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.round(levels).astype("<i4").tobytes(), np.uint8)
    rescaled = copy.copy(bias)  # other operations may share the tensor
    rescaled.quantization = copy.copy(bias.quantization)
    rescaled.quantization.scale, rescaled.buffer = wanted, len(model.buffers)
    operation.inputs = [*operation.inputs[:2], len(graph.tensors), *operation.inputs[3:]]
    graph.tensors.append(rescaled)
    model.buffers.append(buffer)
    return True


def _scales(tensor: Any) -> Any:
    return np.asarray(tensor.quantization.scale, np.float64)
