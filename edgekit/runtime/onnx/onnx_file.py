"""Read what a profile needs from an ONNX file, without the onnx package.

`edgekit inspect` profiles ONNX files of any origin, also on devices that have only numpy and ONNX Runtime. ONNX Runtime
gives no access to the nodes and initializers of a loaded model.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Field numbers of onnx.proto: ModelProto.graph, then the fields of GraphProto, NodeProto and TensorProto.
GRAPH = 7
NODE, INITIALIZER = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATION = 1, 2, 3, 4
TENSOR_TYPE, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW = 2, 4, 8, 9
FLOAT = 1
LOCATION = b"location"
"""Key of the entry of a tensor's external data that names the file."""
PARTS = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
"""Messages that may contain external data, by the message and the number of the field that they are in."""

Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class FileNode:
    """An operation in the file."""

    name: str
    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class OnnxFile:
    """The parts of an ONNX file that a profile needs."""

    nodes: dict[str, FileNode]
    """Operations by name."""
    made_by: dict[str, FileNode]
    """Operation that produces each value, by the name of the value."""
    ones: frozenset[str]
    """Names of the float32 initializers that contain only ones."""

    def find(self, name: str) -> FileNode | None:
        """Original operation of a node in the optimized graph, such as "fc1/MatMulAddFusion"."""
        name = re.sub(r"(_token_\d+|_nchwc)+$", "", name)
        while name not in self.nodes and "/" in name:
            name = name.rpartition("/")[0]
        return self.nodes.get(name)

    def is_sum(self, node: FileNode) -> bool:
        """Whether a product is really a sum, because one of its operands is a constant of ones."""
        return any(value in self.ones for value in node.inputs[:2])

    def quantized(self, node: FileNode) -> tuple[bool, bool]:
        """Whether the first and second operand come from DequantizeLinear, looking through changes of layout."""
        first, second = (self._dequantized(value) for value in (*node.inputs, "", "")[:2])
        return (first, second)

    def _dequantized(self, value: str) -> bool:
        node = self.made_by.get(value)
        while node is not None and node.operation in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            node = self.made_by.get(node.inputs[0])
        return node is not None and node.operation == "DequantizeLinear"


def read_onnx(path: Path) -> OnnxFile:
    """Read a model file, without its external data; raises ValueError if it isn't an ONNX file."""
    nodes, made_by, ones = {}, {}, set()
    for number, graph in _fields(memoryview(path.read_bytes())):
        if number != GRAPH or isinstance(graph, int):
            continue
        for kind, content in _fields(graph):
            if isinstance(content, int):
                continue
            if kind == NODE:
                node = _node(content)
                nodes[node.name] = node
                made_by.update(dict.fromkeys(node.outputs, node))
            elif kind == INITIALIZER and (name := _ones(content)) is not None:
                ones.add(name)
    return OnnxFile(nodes, made_by, frozenset(ones))


def external_files(path: Path) -> frozenset[str]:
    """Names of the files from which a runtime would read tensors of a model; ValueError if it isn't an ONNX file."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content.find(LOCATION) < 0:
        return frozenset()
    return frozenset(_locations("model", memoryview(content)))


def _locations(kind: str, message: memoryview) -> Iterator[str]:
    fields = [(number, content) for number, content in _fields(message) if not isinstance(content, int)]
    entry = {number: bytes(content) for number, content in fields} if kind == "entry" else {}
    if entry.get(1) == LOCATION:
        yield str(entry.get(2, b""), "utf-8")
    for number, content in fields:
        if number in PARTS[kind]:
            yield from _locations(PARTS[kind][number], content)


def _node(content: memoryview) -> FileNode:
    texts: dict[int, list[str]] = {}
    for number, value in _fields(content):
        if number in (NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATION) and not isinstance(value, int):
            texts.setdefault(number, []).append(str(value, "utf-8"))
    name, operation = (texts.get(number, [""])[0] for number in (NODE_NAME, NODE_OPERATION))
    return FileNode(name, operation, tuple(texts.get(NODE_INPUT, ())), tuple(texts.get(NODE_OUTPUT, ())))


def _ones(content: memoryview) -> str | None:
    """Name of a float32 tensor if it contains only ones, otherwise None."""
    fields = dict(_fields(content))
    values = fields.get(TENSOR_RAW, fields.get(TENSOR_FLOATS))
    name = fields.get(TENSOR_NAME)
    if fields.get(TENSOR_TYPE) != FLOAT or isinstance(values, int | None) or isinstance(name, int | None):
        return None
    return str(name, "utf-8") if len(values) and bool((np.frombuffer(values, "<f4") == 1).all()) else None


def _fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field of a protobuf message, except numbers of fixed width."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
        elif wire == 2:
            size, position = _varint(message, position)
            if position + size > end:
                raise ValueError("it is truncated")
            yield number, message[position : position + size]
            position += size
        elif wire in (1, 5):
            position += struct.calcsize("<d" if wire == 1 else "<f")
        else:
            raise ValueError(f"it is not an ONNX file: unknown wire type {wire}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("it is not an ONNX file: a number has no end")
