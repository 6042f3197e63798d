"""Changes where the converter's INT8 models pass from float to INT8 and back, without changing what they compute."""

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

VERSION = 2
"""Version of the operations QUANTIZE and DEQUANTIZE that knows int8."""


def tabulate_gelus(model: Any) -> int:
    """Compute each GELU from int8 to int8 in float, between DEQUANTIZE and QUANTIZE; returns their number.

    XNNPACK turns the three operations into one table of 256 values. It doesn't know a GELU in int8, which LiteRT's own
    slower kernel would run.
    """
    changed = 0
    for graph in model.subgraphs:
        operations = []
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            source, sink = operation.inputs[0], operation.outputs[0]
            if code != schema.BuiltinOperator.GELU or graph.tensors[source].type != schema.TensorType.INT8:
                operations.append(operation)
                continue
            inside, outside = _as_float(graph, source), _as_float(graph, sink)
            operations.append(_convert(model, schema.BuiltinOperator.DEQUANTIZE, source, inside))
            operation.inputs, operation.outputs = [inside], [outside]
            operations += [operation, _convert(model, schema.BuiltinOperator.QUANTIZE, outside, sink)]
            changed += 1
        graph.operators = operations
    return changed


def float_ends(model: Any) -> None:
    """Let an INT8 model take a float image and return float logits, which its first and last operation convert.

    That is faster than in numpy, outside the model, and LiteRT.js accepts no other input or output.
    """
    graph = model.subgraphs[0]  # others are the bodies of operations
    (image,), (logits,) = graph.inputs, graph.outputs
    signatures = model.signatureDefs or []
    if graph.tensors[image].type == schema.TensorType.INT8:
        given = _float_end(graph, image)
        graph.operators.insert(0, _convert(model, schema.BuiltinOperator.QUANTIZE, given, image))
        graph.inputs = [given]
        for entry in (entry for signature in signatures for entry in signature.inputs):
            entry.tensorIndex = given
    if graph.tensors[logits].type == schema.TensorType.INT8:
        returned = _float_end(graph, logits)
        graph.operators.append(_convert(model, schema.BuiltinOperator.DEQUANTIZE, logits, returned))
        graph.outputs = [returned]
        for entry in (entry for signature in signatures for entry in signature.outputs):
            entry.tensorIndex = returned


def _float_end(graph: Any, index: int) -> int:
    """Add a float tensor that takes the name of an int8 input or output. Returns its index."""
    end, name = _as_float(graph, index), graph.tensors[index].name
    graph.tensors[end].name, graph.tensors[index].name = name, name + b"_int8"
    return end


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
