"""Collects statistics at some nodes of a graph, over many images."""

from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import CancelledError
from copy import copy
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution.cached_weights import CachedWeightInterpreter
from edgekit.compiler.execution.memory import VALUES_BYTES, number_that_fits
from edgekit.compiler.execution.node_by_node import NodeByNode, Values, of_image
from edgekit.compiler.execution.node_work import node_work
from edgekit.compiler.execution.threads import at_once, is_small, side_by_side, threads
from edgekit.compiler.execution.turns import Turns
from edgekit.support.progress import Step, no_step, part_of

R = TypeVar("R")


class Collector(CachedWeightInterpreter, Generic[R]):
    """Measures something at each of some nodes for each image, and adds it up in the order of the images.

    Sums of floats depend on the order, and bundles of the same job must not differ. A subclass defines `measure` and
    `add`, and keeps the sums.
    """

    def __init__(self, graph: GraphModule, nodes: Collection[Node]) -> None:
        super().__init__(graph)
        self._graph, self.nodes = graph, frozenset(nodes)
        self._image = 0
        self._turns = Turns()

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
            self._collect_side_by_side(samples, part_of(step, 1 / len(samples)))
        else:
            self._collect_node_by_node(samples, part_of(step, 1 / len(samples)))

    def _collect_side_by_side(self, samples: Sequence[NDArray[np.float32]], step: Step) -> None:
        self._turns = Turns()

        def run(image: int) -> None:
            # The first image fills the cache of weights, which the copies share. Each has its own values of nodes.
            one = copy(self) if image else self
            one._image = image
            with self._turns.ended_by_error():
                one.run(torch.from_numpy(samples[image]))

        count = at_once(self.module)
        with threads(torch.get_num_threads() // count):
            run(0)
        step()
        try:
            for _ in side_by_side(run, range(1, len(samples)), count):
                step()
        except CancelledError as cancelled:  # because another image failed, and that image's error says why
            raise self._turns.error or cancelled from None

    def _collect_node_by_node(self, samples: Sequence[NDArray[np.float32]], step: Step) -> None:
        """Read and quantize each weight once for all images, or for as many as fit into `VALUES_BYTES`."""
        images, work = [torch.from_numpy(sample) for sample in samples], node_work(self._graph)
        most, total = number_that_fits(self._graph, images[0], VALUES_BYTES), sum(work.values())
        for start in range(0, len(images), most):
            nodes, values = NodeByNode(self._graph, images[start : start + most]), Values()
            for node in self._graph.graph.nodes:
                if node.op == "output":
                    break
                values[node] = nodes.run(node, values)
                if node in self.nodes:
                    for index in range(len(nodes.images)):
                        inputs, output = of_image((node.all_input_nodes, node), values, index)
                        self.add(node, self.measure(node, inputs, output))
                nodes.forget(node.all_input_nodes, values)
                step(len(nodes.images) * work[node] / total)

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        if n in self.nodes:
            part = self.measure(n, [self.env[used] for used in n.all_input_nodes], output)
            with self._turns.turn(n, self._image):
                self.add(n, part)
        return output


class Together(Collector[Any]):
    """Runs several collectors in one pass over the images. No two of them may measure the same node."""

    def __init__(self, graph: GraphModule, collectors: Iterable[Collector[Any]]) -> None:
        self._collectors = {node: each for each in collectors for node in each.nodes}
        super().__init__(graph, self._collectors)

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Any:
        return self._collectors[node].measure(node, inputs, output)

    def add(self, node: Node, part: Any) -> None:
        self._collectors[node].add(node, part)
