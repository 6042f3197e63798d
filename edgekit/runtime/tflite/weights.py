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
    if index == len(model.buffers):
        model.buffers.append(schema.BufferT())
    return index


def _in_order_of(values: Levels, tensor: Any) -> NDArray[np.uint8]:
    """Bytes of the weights in the order of a tensor's axes, where the kernel's height and width precede the inputs."""
    if values.ndim == 4:
        depthwise = tensor.quantization.quantizedDimension == DEPTHWISE_AXIS
        values = values.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
