"""Runs a graph on all images, one node after another, and counts the memory that this takes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from edgekit.compat.torch import fake_tensors
from edgekit.compiler.execution.threads import at_once, side_by_side, threads

Values: TypeAlias = dict[Node, Any]
"""Value of each node: a list with one value per image, or a single value if it doesn't depend on the image."""


class NodeByNode:
    """Runs each node on all images before the next node, so that a large weight is read once for all of them.

    The caller visits the nodes in the graph's order, keeps their values, and frees them with `forget`. It may change
    constants of nodes that it hasn't visited yet.
    """

    def __init__(self, graph: GraphModule, images: Sequence[Tensor]) -> None:
        self.images = images
        self._interpreter = Interpreter(graph)
        self._at_once = at_once(graph)
        self._threads = max(1, torch.get_num_threads() // self._at_once)
        self._users_left = Counter(used for node in graph.graph.nodes for used in node.all_input_nodes)

    def run(self, node: Node, values: Values) -> Any:
        """The value of a node, as `Values` describes it, from the values of its inputs."""
        if node.op == "placeholder":
            return list(self.images)

        def compute(index: int) -> Any:
            args, kwargs = (of_image(part, values, index) for part in (node.args, node.kwargs))
            return getattr(self._interpreter, node.op)(node.target, args, kwargs)

        per_image = any(isinstance(values[used], list) for used in node.all_input_nodes)
        with threads(self._threads):
            return [*side_by_side(compute, range(len(self.images)), self._at_once)] if per_image else compute(0)

    def forget(self, inputs: Iterable[Node], *sides: Values) -> None:
        """Free the values of a node's inputs, on each side, after its run, unless later nodes need them."""
        for used in inputs:
            self._users_left[used] -= 1
            if not self._users_left[used]:
                for values in sides:
                    del values[used]


def of_image(arguments: Any, values: Values, index: int) -> Any:
    """Arguments of a node, in which the values of one image replace the nodes."""
    return map_arg(arguments, lambda used: values[used][index] if isinstance(values[used], list) else values[used])


VALUES_BYTES = 1 << 30
"""Memory for the values of all images that run node by node."""


def subset_that_fits(graph: GraphModule, samples: Sequence[NDArray[np.float32]], memory: int) -> list[Tensor]:
    """An evenly spaced subset of the images that fits into `memory` bytes when run node by node; at least one."""
    images = [torch.from_numpy(sample) for sample in samples]
    most = number_that_fits(graph, images[0], memory)
    if most >= len(images):
        return images
    return [images[index * len(images) // most] for index in range(most)]


def number_that_fits(graph: GraphModule, image: Tensor, memory: int) -> int:
    """Number of images like this one that fit into `memory` bytes when run node by node; at least one."""
    return max(1, memory // live_bytes(graph, image))


def live_bytes(graph: GraphModule, image: Tensor) -> int:
    """The most bytes that the values of one image take at the same time. Weights don't count. Computes no values."""
    counter = _LiveBytes(graph)
    with fake_tensors() as fake:
        counter.run(fake.from_tensor(image))
    return counter.most


class _LiveBytes(Interpreter):
    """Finds the most bytes of values that depend on the image."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.most = 1
        self._per_image: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder" or not self._per_image.isdisjoint(n.all_input_nodes):
            self._per_image.add(n)
            live = (value, *(held for node, held in self.env.items() if node in self._per_image))
            self.most = max(self.most, sum(tensor.nbytes for tensor in live if isinstance(tensor, Tensor)))
        return value
