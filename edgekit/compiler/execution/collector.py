"""Collects statistics at some nodes of a graph, over many images."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgekit.compiler.execution.node_by_node import VALUES_BYTES, NodeByNode, Values, number_that_fits, of_image
from edgekit.compiler.execution.threads import at_once, is_small, side_by_side, threads
from edgekit.compiler.nodes import Q
from edgekit.support.progress import Step, no_step

R = TypeVar("R")
CACHED_BYTES = 1 << 28
"""Memory for cached weights."""


class CachedWeightInterpreter(Interpreter):
    """Runs a Q/DQ graph and caches its fake-quantized weights, in the graph's order up to `CACHED_BYTES`.

    It looks up each constant once, too, which for small networks takes as long as their largest layers. Outputs equal
    those of the graph. Weights that change after the first run need a new interpreter.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self._cached: dict[Node, Any] = {}
        self._left = CACHED_BYTES

    def run_node(self, n: Node) -> Any:
        if n in self._cached:
            return self._cached[n]
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = getattr(self, n.op)(n.target, args, kwargs)  # without torch's notes for tracing
        if n.op == "get_attr":
            self._cached[n] = value
        elif n.target is Q.dequantize_per_channel.default and value.nbytes <= self._left:
            self._left -= value.nbytes
            self._cached[n] = value
            (quantizer,) = n.all_input_nodes[:1]
            if len(quantizer.users) == 1:
                self._cached[quantizer] = None  # no other node needs its value
        return value


class Collector(CachedWeightInterpreter, Generic[R]):
    """Measures something at each of some nodes for each image, and adds it up in the order of the images.

    Sums of floats depend on the order, and bundles of the same job must not differ. A subclass defines `measure` and
    `add`, and keeps the sums.
    """

    def __init__(self, graph: GraphModule, nodes: Collection[Node]) -> None:
        super().__init__(graph)
        self._graph, self.nodes = graph, frozenset(nodes)
        self._image = 0

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> R:
        """Contribution of one image to a node's sum, from the values of the node's input nodes and its own value.

        It may run for several images at the same time and on a copy of the collector, so it must not set attributes.
        """
        raise NotImplementedError

    def add(self, node: Node, part: R) -> None:
        """Add one image's contribution to a node's sum. Never runs for two images of the same node at a time."""
        raise NotImplementedError

    def collect(self, samples: Sequence[NDArray[np.float32]], step: Step = no_step) -> None:
        """Run all images, each float32 [1,C,H,W], which count as 1 in `step`.

        A small network runs several images side by side; a large one runs node by node, with as many images at a time
        as fit into `VALUES_BYTES`. In both modes each node gets the contributions of the images in their order, and
        the first image that fails ends the collection with its own exception. The order of contributions to different
        nodes differs between the modes.
        """
        if is_small(self.module):
            self._collect_side_by_side(samples, step)
        else:
            self._collect_node_by_node(samples, step)

    def _collect_side_by_side(self, samples: Sequence[NDArray[np.float32]], step: Step) -> None:
        self._locks = {node: Lock() for node in self.nodes}
        self._waiting: dict[Node, dict[int, R]] = {node: {} for node in self.nodes}
        self._added = Counter[Node]()

        def run(image: int) -> None:
            # The first image fills the cache of weights, which the copies share. Each has its own values of nodes.
            one = copy(self) if image else self
            one._image = image
            one.run(torch.from_numpy(samples[image]))

        count = at_once(self.module)
        with threads(torch.get_num_threads() // count):
            run(0)
        step(1 / len(samples))
        for _ in side_by_side(run, range(1, len(samples)), count):
            step(1 / len(samples))

    def _collect_node_by_node(self, samples: Sequence[NDArray[np.float32]], step: Step) -> None:
        """Read and quantize each weight once for all images, or for as many as fit into `VALUES_BYTES`."""
        images = [torch.from_numpy(sample) for sample in samples]
        most = number_that_fits(self._graph, images[0], VALUES_BYTES)
        for start in range(0, len(images), most):
            nodes, values = NodeByNode(self._graph, images[start : start + most]), Values()
            for node in self._graph.graph.nodes:
                if node.op != "output":
                    values[node] = nodes.run(node, values)
                if node in self.nodes:
                    for index in range(len(nodes.images)):
                        inputs, output = of_image((node.all_input_nodes, node), values, index)
                        self.add(node, self.measure(node, inputs, output))
                nodes.forget(node.all_input_nodes, values)
                step(len(nodes.images) / len(images) / len(self._graph.graph.nodes))

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        if n in self.nodes:
            self._deliver(n, self.measure(n, [self.env[used] for used in n.all_input_nodes], output))
        return output

    def _deliver(self, node: Node, part: R) -> None:
        """Add this image's contribution, and those that waited for it; or let it wait for those of earlier images."""
        waiting = self._waiting[node]
        with self._locks[node]:
            waiting[self._image] = part
            while self._added[node] in waiting:
                self.add(node, waiting.pop(self._added[node]))
                self._added[node] += 1


class Together(Collector[Any]):
    """Runs several collectors in one pass over the images. No two of them may measure the same node."""

    def __init__(self, graph: GraphModule, collectors: Iterable[Collector[Any]]) -> None:
        self._collectors = {node: each for each in collectors for node in each.nodes}
        super().__init__(graph, self._collectors)

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Any:
        return self._collectors[node].measure(node, inputs, output)

    def add(self, node: Node, part: Any) -> None:
        self._collectors[node].add(node, part)
