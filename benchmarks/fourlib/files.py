"""Stores the 4-bit weights of a LiteRT file in 4 bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchmarks.fourlib.rounding import HIGH, LOW
from edgekit.runtime.tflite.flatbuffer import operation_code, packed

FULLY_CONNECTED, CONV_2D = schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.CONV_2D
VERSION = 6
"""Version of FULLY_CONNECTED that takes INT4 weights."""


def store_in_four_bits(source: Path, target: Path) -> int:
    """Give the weights of 16 levels in a file the type INT4, two in a byte. Returns their number.

    Only FULLY_CONNECTED takes them, so 1x1 convolutions become that. The first of two weights is in the lower half of
    the byte.
    """
    model = schema.ModelT.InitFromPackedBuf(np.fromfile(source, np.uint8))
    count = 0
    for operation, weight in _products(model):
        buffer = model.buffers[weight.buffer]
        levels = np.asarray(buffer.data, np.uint8).view(np.int8)
        if levels.min() < LOW or levels.max() > HIGH or levels.size % 2:
            continue
        _connect_fully(model, operation, weight)
        halves = levels.view(np.uint8) & 15
        buffer.data, weight.type = halves[::2] | halves[1::2] << 4, schema.TensorType.INT4
        count += 1
    target.write_bytes(packed(model, source.stat().st_size))
    return count


def _products(model: Any) -> Iterator[tuple[Any, Any]]:
    """The operations with INT8 weights that are FULLY_CONNECTED or could be, and these weights."""
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            if code not in (FULLY_CONNECTED, CONV_2D):
                continue
            value, weight = (graph.tensors[index] for index in operation.inputs[:2])
            pointwise = code == CONV_2D and _is_pointwise(operation.builtinOptions, value, weight)
            if weight.type == schema.TensorType.INT8 and (code == FULLY_CONNECTED or pointwise):
                yield operation, weight


def _is_pointwise(options: Any, value: Any, weight: Any) -> bool:
    """Whether a convolution has one tap, one group and stride 1."""
    return (
        tuple(weight.shape[1:3]) == (options.strideH, options.strideW) == (1, 1) and weight.shape[3] == value.shape[3]
    )


def _connect_fully(model: Any, operation: Any, weight: Any) -> None:
    """Turn a 1x1 convolution into FULLY_CONNECTED on each pixel, in place."""
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = True
    options.fusedActivationFunction = operation.builtinOptions.fusedActivationFunction
    if model.operatorCodes[operation.opcodeIndex].builtinCode == FULLY_CONNECTED:
        options.keepNumDims = operation.builtinOptions.keepNumDims
    operation.builtinOptions, operation.builtinOptionsType = options, schema.BuiltinOptions.FullyConnectedOptions
    operation.opcodeIndex = operation_code(model, FULLY_CONNECTED, VERSION)
    weight.shape = [weight.shape[0], weight.shape[-1]]
