"""Gives the converter's INT8 models the weights that it never saw.

The converter holds several copies of all weights in float. It gets zeros instead, which it stores as a single number.
Its model has the right scales and room for the weights, which then take their places.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgekit.errors import CompileError

Key: TypeAlias = tuple[int, bytes]
"""Identifies a weight in the graph and in the .tflite file: its number of values, and its scales as float32 bytes."""
Levels: TypeAlias = NDArray[np.int8]
"""Weights in INT8, [out,in] or [out,in,H,W]."""

DEPTHWISE_AXIS = 3
"""Axis of the channels in the weights of a depthwise convolution, [1,H,W,channels]. All other weights have axis 0."""


def put_weights(model: Any, weights: Mapping[Key, Levels]) -> None:
    """Give a model (`ModelT`) that was made from the graph with zeros its weights.

    Raises CompileError if it has no tensor for some, because the converter turned the graph into another one.
    """
    buffers: dict[Key, int] = {}
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for place, tensor in enumerate(tensors, start=1):
        key = _key(tensor)
        if key is None or key not in weights:
            continue
        if key not in buffers:
            buffers[key] = _own_buffer(model, tensor, place)
            model.buffers[buffers[key]].data = _in_order_of(weights[key], tensor)
        elif tensor.buffer == place:
            model.buffers[place].data = None  # the zeros of weights that the network uses again
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


def _own_buffer(model: Any, tensor: Any, place: int) -> int:
    """Index of a buffer that no other tensor uses, for the tensor at `place`, counted from 1.

    The converter gives each tensor the buffer of its place, and leaves that empty if another buffer has the same
    content, as most of those with zeros.
    """
    if tensor.buffer == place or (place < len(model.buffers) and model.buffers[place].data is None):
        return place
    model.buffers.append(schema.BufferT())
    return len(model.buffers) - 1


def _in_order_of(values: Levels, tensor: Any) -> NDArray[np.uint8]:
    """Bytes of the weights in the order of a tensor's axes, where the kernel's height and width precede the inputs."""
    if values.ndim == 4:
        depthwise = tensor.quantization.quantizedDimension == DEPTHWISE_AXIS
        values = values.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
