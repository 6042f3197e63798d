"""Sums over images: the order of the images is kept, and an error ends the collection."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgekit.compiler import execution
from edgekit.compiler.execution import Collector, collect, live_bytes, threads
from edgekit.compiler.graph import trace


class Sums(Collector[Tensor]):
    """Sums the outputs of some nodes in float32, in which the order shows."""

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(nodes)
        self.sums: dict[Node, Tensor] = {}
        self.threads: set[int] = set()

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        self.threads.add(threading.get_ident())
        if not torch.isfinite(output).all():
            raise ValueError("not finite")
        return output.clone()

    def add(self, node: Node, part: Tensor) -> None:
        self.sums[node] = self.sums[node] + part if node in self.sums else part


def network() -> tuple[GraphModule, list[Node]]:
    torch.manual_seed(0)
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), (1, 3, 16, 16))
    return graph, [node for node in graph.graph.nodes if node.op == "call_function"]


def images(count: int) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [(random.normal(size=(1, 3, 16, 16)) * 10**index).astype(np.float32) for index in range(count)]


@pytest.mark.parametrize(("count", "small"), [(1, True), (2, True), (3, True), (2, False)])
def test_sums_have_the_order_of_the_images(count: int, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, nodes = network()
    if not small:
        monkeypatch.setattr("edgekit.config.runtimes.SIDE_BY_SIDE_UP_TO", 100)
    monkeypatch.setattr(execution, "VALUES_BYTES", 4 * live_bytes(graph))
    with torch.no_grad(), threads(count):
        sums = Sums(nodes)
        collect(graph, images(9), [sums])
    assert (len(sums.threads) > 1) == (count > 1 and small)
    with torch.no_grad(), threads(1):
        for node in nodes:
            expected = torch.zeros(())
            for image in images(9):
                seen = torch.fx.Interpreter(graph)
                seen.garbage_collect_values = False
                seen.run(torch.from_numpy(image))
                expected = expected + seen.env[node]
            assert torch.equal(sums.sums[node], expected)


@pytest.mark.parametrize("slow", [None, 2, 4])
def test_an_image_that_fails_ends_the_others(slow: int | None) -> None:
    class SlowSums(Sums):
        def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
            if slow is not None and torch.equal(inputs[0], torch.from_numpy(samples[slow])):
                time.sleep(0.2)  # so that the other image fails first
            return super().measure(node, inputs, output)

    graph, nodes = network()
    samples = images(9)
    samples[3][:] = np.nan
    with torch.no_grad(), threads(3), pytest.raises(ValueError, match="not finite"):
        collect(graph, samples, [SlowSums(nodes)])
