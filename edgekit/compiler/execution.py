"""Runs a graph in torch on many images, and collects statistics at some of its nodes.

The nodes of a graph run one after another, each on all images within a limit of memory. Either several images run side
by side, or all cores work on one image.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import operand
from edgekit.compiler.layers import QUANTIZATIONS
from edgekit.config import runtimes
from edgekit.support.probe import available_cores
from edgekit.support.progress import Step, no_step

T = TypeVar("T")
R = TypeVar("R")


def is_small(network: nn.Module) -> bool:
    """Whether a network has at most `sizes.SIDE_BY_SIDE_UP_TO` weights."""
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers())) <= runtimes.SIDE_BY_SIDE_UP_TO


def at_once(network: nn.Module) -> int:
    """Number of images to run side by side: torch's number of threads, or 1 for a large network."""
    return torch.get_num_threads() if is_small(network) else 1


def keep_to_available_cores() -> None:
    """Give torch no more threads than this process may use cores; torch doesn't know the quotas of control groups."""
    if torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """The function's result for each item, in order. `count` items run at a time, with one torch thread each.

    The results are the same for any count. The function runs without gradients in threads, and in the caller's thread
    if `count` is 1. At most `count` results wait for the caller. An exception of the function is raised in the place of
    its result.

    Two threads on the same small operation gain little. If another process keeps one of their cores busy, every
    operation waits for that core: the same calibration took 250 s instead of 30 s.
    """
    if count == 1:
        yield from map(function, items)
        return

    def run(item: T) -> R:
        with torch.no_grad():  # which doesn't reach other threads
            return function(item)

    running: deque[Future[R]] = deque()
    with threads(1), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for item in items:
            running.append(pool.submit(run, item))
            if len(running) > count:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


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
        return self.map(compute, list(range(len(self.images)))) if per_image else compute(0)

    def run_exact(self, node: Node, values: Values) -> Any:
        """The value of a node in the float network, which has no quantizations."""
        return values[operand(node)] if node.target in QUANTIZATIONS else self.run(node, values)

    def map(self, function: Callable[[T], R], value: T | list[T]) -> R | list[R]:
        """The function of a value, for each image if it depends on the image."""
        with threads(self._threads):
            return [*side_by_side(function, value, self._at_once)] if isinstance(value, list) else function(value)

    def measure(self, collector: "Collector[R]", node: Node, values: Values) -> None:
        """Let a collector measure a node for each image, in the images' order."""

        def part(index: int) -> R:
            return collector.measure(node, *of_image((node.all_input_nodes, node), values, index))

        with threads(self._threads):
            for each in side_by_side(part, range(len(self.images)), self._at_once):
                collector.add(node, each)

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


VALUES_BYTES = 1 << 28
"""Memory for the values of the images that run together through the float network."""


def subset_that_fits(
    graph: GraphModule, samples: Sequence[NDArray[np.float32]], memory: int, most: int
) -> list[Tensor]:
    """Up to `most` of the images, evenly spaced, that fit into `memory` bytes when run node by node; at least one."""
    chosen = min(len(samples), most, number_that_fits(graph, memory))
    return [torch.from_numpy(samples[index * len(samples) // chosen]) for index in range(chosen)]


def number_that_fits(graph: GraphModule, memory: int) -> int:
    """Number of images that fit into `memory` bytes when run node by node; at least one."""
    return max(1, memory // live_bytes(graph))


def live_bytes(graph: GraphModule) -> int:
    """The most bytes that the values of one image take at the same time. Weights don't count. Computes no values."""
    users_left: Counter[Node] = Counter()
    live: dict[Node, int] = {}
    most = 1
    for node in graph.graph.nodes:
        if node.op == "placeholder" or not live.keys().isdisjoint(node.all_input_nodes):
            users_left[node] = len(node.users)
            live[node] = node.meta["val"].nbytes if isinstance(node.meta.get("val"), Tensor) else 0
            most = max(most, sum(live.values()))
        for used in node.all_input_nodes:
            users_left[used] -= 1
            if not users_left[used]:
                live.pop(used, None)
    return most


class Collector(Generic[R]):
    """Measures something at each of some nodes for each image, and adds it up in the order of the images.

    Sums of floats depend on the order, and bundles of the same job must not differ. A subclass defines `measure` and
    `add`, and keeps the sums.
    """

    def __init__(self, nodes: Collection[Node]) -> None:
        self.nodes = frozenset(nodes)

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> R:
        """Contribution of one image to a node's sum, from the values of the node's input nodes and its own value.

        It may run for several images at the same time, so it must not set attributes.
        """
        raise NotImplementedError

    def add(self, node: Node, part: R) -> None:
        """Add one image's contribution to a node's sum. Never runs for two images at a time."""
        raise NotImplementedError


def collect(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    collectors: Sequence[Collector[Any]],
    step: Step = no_step,
) -> None:
    """Run the float network of a graph on all images, each float32 [1,C,H,W], for several collectors.

    They count as 1 in `step`. As many images as fit into `VALUES_BYTES` run node by node. Each node gets the
    contributions of the images in their order, and the first image that fails ends the collection with its own
    exception.
    """
    images = [torch.from_numpy(sample) for sample in samples]
    most = number_that_fits(graph, VALUES_BYTES)
    for start in range(0, len(images), most):
        nodes, values = NodeByNode(graph, images[start : start + most]), Values()
        for node in graph.graph.nodes:
            if node.op != "output":
                values[node] = nodes.run_exact(node, values)
            for collector in collectors:
                if node in collector.nodes:
                    nodes.measure(collector, node, values)
            nodes.forget(node.all_input_nodes, values)
            step(len(nodes.images) / len(images) / len(graph.graph.nodes))
