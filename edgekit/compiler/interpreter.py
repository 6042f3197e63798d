"""Runs a calibrated graph in torch on many images, several side by side."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from threading import Condition
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from edgekit.compat.torch import fake_tensors
from edgekit.compiler.graph import Q

CACHED_BYTES = 1 << 28
"""Memory for cached weights."""
VALUES_BYTES = 1 << 30
"""Memory for the values of all images that run node by node."""
SMALL = 50_000_000
"""Number of weights up to which several images run side by side. The layers of larger networks keep all cores busy."""

T = TypeVar("T")
R = TypeVar("R")


def is_small(network: nn.Module) -> bool:
    """Whether a network has at most `SMALL` weights."""
    return sum(tensor.numel() for tensor in (*network.parameters(), *network.buffers())) <= SMALL


def at_once(network: nn.Module) -> int:
    """How many images to run side by side: torch's number of threads, or 1 for a large network."""
    return torch.get_num_threads() if is_small(network) else 1


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


class CachedWeightInterpreter(Interpreter):
    """Runs a Q/DQ graph and caches its fake-quantized weights, up to `CACHED_BYTES`."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self._cached: dict[Node, Tensor | None] = {}
        self._left = CACHED_BYTES

    def run_node(self, n: Node) -> Any:
        if n in self._cached:
            return self._cached[n]
        value = super().run_node(n)
        if n.target is Q.dequantize_per_channel.default and value.nbytes <= self._left:
            self._left -= value.nbytes
            self._cached[n] = value
            (quantizer,) = n.all_input_nodes[:1]
            if len(quantizer.users) == 1:
                self._cached[quantizer] = None  # no other node needs its value
        return value


Values: TypeAlias = dict[Node, Any]
"""What each node gives: a list with one value per image, or a single value if it doesn't depend on the image."""


class NodeByNode:
    """Runs a graph on all images, one node after another, so that each node sees all images at the same time."""

    def __init__(self, graph: GraphModule, images: Sequence[Tensor]) -> None:
        self.images = images
        self._interpreter = Interpreter(graph)
        self._threads = max(1, torch.get_num_threads() // at_once(graph))
        self._users_left = Counter(used for node in graph.graph.nodes for used in node.all_input_nodes)

    def run(self, node: Node, values: Values) -> Any:
        """What a node gives, from the values of its inputs."""
        if node.op == "placeholder":
            return list(self.images)

        def compute(index: int) -> Any:
            args, kwargs = (of_image(part, values, index) for part in (node.args, node.kwargs))
            return getattr(self._interpreter, node.op)(node.target, args, kwargs)

        per_image = any(isinstance(values[used], list) for used in node.all_input_nodes)
        with threads(self._threads):
            return [compute(index) for index in range(len(self.images))] if per_image else compute(0)

    def forget(self, inputs: Iterable[Node], *sides: Values) -> None:
        """Free the inputs of a node that has run, unless later nodes need them."""
        for used in inputs:
            self._users_left[used] -= 1
            if not self._users_left[used]:
                for values in sides:
                    del values[used]


def of_image(arguments: Any, values: Values, index: int) -> Any:
    """A node's arguments with the values of one image in the place of nodes."""
    return map_arg(arguments, lambda used: values[used][index] if isinstance(values[used], list) else values[used])


def that_fit(graph: GraphModule, samples: Sequence[NDArray[np.float32]], memory: int) -> list[Tensor]:
    """As many images, evenly spaced, as can go through a graph node by node in so many bytes; at least one."""
    images = [torch.from_numpy(sample) for sample in samples]
    most = number_that_fits(graph, images[0], memory)
    if most >= len(images):
        return images
    return [images[index * len(images) // most] for index in range(most)]


def number_that_fits(graph: GraphModule, image: Tensor, memory: int) -> int:
    """How many images like this one can go through a graph node by node in so many bytes; at least one."""
    return max(1, memory // live_bytes(graph, image))


def live_bytes(graph: GraphModule, image: Tensor) -> int:
    """The most bytes that the values of one image take at the same time. Computes no values."""
    counter = _LiveBytes(graph)
    with fake_tensors() as fake:
        counter.run(fake.from_tensor(image))
    return counter.most


class _LiveBytes(Interpreter):
    """Finds the most bytes of values that depend on the image. Weights don't."""

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


class Collector(CachedWeightInterpreter, Generic[R]):
    """Runs a graph on images side by side, and adds up what `measure` finds at some nodes, in the order of the images.

    Sums of floats depend on the order, and bundles of the same job must not differ.
    """

    def __init__(self, graph: GraphModule, nodes: Collection[Node]) -> None:
        super().__init__(graph)
        self._graph, self._nodes = graph, frozenset(nodes)
        self._image = 0
        self._turns = _Turns()

    def measure(self, node: Node, inputs: tuple[Any, ...], output: Any) -> R:
        """What one image contributes to a node's sum. Runs for several images at the same time."""
        raise NotImplementedError

    def add(self, node: Node, part: R) -> None:
        """Add one image's contribution. Never runs for two images at the same time."""
        raise NotImplementedError

    def collect(self, samples: Sequence[NDArray[np.float32]]) -> None:
        """Run the images, float32 [1,C,H,W]."""
        if not is_small(self.module):
            self._collect_node_by_node(samples)
            return
        self._turns = _Turns()

        def run(image: int) -> None:
            # The first image fills the cache of weights, which the copies share. Each has its own values of nodes.
            one = copy(self) if image else self
            one._image = image
            with self._turns.ended_by_error():
                one.run(torch.from_numpy(samples[image]))

        count = at_once(self.module)
        with threads(torch.get_num_threads() // count):
            run(0)
        try:
            list(side_by_side(run, range(1, len(samples)), count))
        except CancelledError as cancelled:  # because another image failed, and that image's error says why
            raise self._turns.error or cancelled from None

    def _collect_node_by_node(self, samples: Sequence[NDArray[np.float32]]) -> None:
        """Read and quantize each weight once for all images, or for as many as fit into `VALUES_BYTES`."""
        images = [torch.from_numpy(sample) for sample in samples]
        most = number_that_fits(self._graph, images[0], VALUES_BYTES)
        for start in range(0, len(images), most):
            nodes, values = NodeByNode(self._graph, images[start : start + most]), Values()
            for node in self._graph.graph.nodes:
                if node.op == "output":
                    break
                values[node] = nodes.run(node, values)
                if node in self._nodes:
                    for index in range(len(nodes.images)):
                        inputs, output = of_image((node.args, node), values, index)
                        self.add(node, self.measure(node, inputs, output))
                nodes.forget(node.all_input_nodes, values)

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        if n in self._nodes:
            part = self.measure(n, self.fetch_args_kwargs_from_env(n)[0], output)
            with self._turns.turn(n, self._image):
                self.add(n, part)
        return output


class _Turns:
    """Lets each image wait at a node until all images before it were there."""

    def __init__(self) -> None:
        self._condition, self._arrived = Condition(), Counter[Node]()
        self.error: BaseException | None = None
        """Of the first image that failed, after which no image waits."""

    @contextmanager
    def turn(self, node: Node, image: int) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: self._arrived[node] == image or self.error)
            if self.error:
                raise CancelledError
            yield
            self._arrived[node] += 1
            self._condition.notify_all()

    @contextmanager
    def ended_by_error(self) -> Iterator[None]:
        """Let no other image wait for the one that fails inside the block."""
        try:
            yield
        except BaseException as error:
            with self._condition:
                self.error = self.error or error
                self._condition.notify_all()
            raise
