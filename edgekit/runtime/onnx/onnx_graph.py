"""Lookup tables of an ONNX model, for passes that replace its nodes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class OnnxGraph:
    """The nodes and constants of a model by the names of their values. A pass may add to `tensors`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.nodes = model.graph.node
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    def made_by(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """The node that makes a value, if it is of one of these kinds."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def behind(self, name: str, *kinds: str) -> str:
        """The value from which nodes of these kinds make a value; the value itself if none does."""
        while (node := self.made_by(name, *kinds)) is not None:
            name = node.input[0]
        return name

    def after(self, name: str, *kinds: str) -> Iterator[onnx.NodeProto]:
        """The nodes that read a value, or what nodes of these kinds make of it."""
        for reader in self.readers[name]:
            yield from self.after(reader.output[0], *kinds) if reader.op_type in kinds else [reader]

    def array(self, name: str) -> NDArray[Any]:
        """The value of a constant."""
        return numpy_helper.to_array(self.tensors[name])

    def add(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

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
