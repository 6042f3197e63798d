"""Equalized channels: the same function with the same operations."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import A
from edgekit.compiler.ranges import equalize
from edgekit.compiler.rewrites import rewrite
from tests.helpers.graphs import export_graph

SIZE = (1, 3, 8, 8)


class ResponseNorm(nn.Module):
    """GRN as in timm, after a pointwise convolution whose channels differ a hundredfold."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 1)
        self.narrow = nn.Conv2d(16, 4, 1)
        self.weight, self.bias = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16))
        with torch.no_grad():
            self.wide.weight *= torch.logspace(-1, 1, 16)[:, None, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(x)
        length = x.norm(p=2, dim=(2, 3), keepdim=True)
        shape = (1, -1, 1, 1)
        normed = x * (length / (length.mean(dim=1, keepdim=True) + 1e-6))
        narrow: torch.Tensor = self.narrow(x + torch.addcmul(self.bias.view(shape), self.weight.view(shape), normed))
        return narrow


class Norm(nn.Module):
    """A LayerNorm with an affine part, and two layers that consume it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.left, self.right = nn.LayerNorm(8), nn.Linear(8, 4), nn.Linear(8, 5)
        with torch.no_grad():
            self.norm.weight.mul_(torch.logspace(-1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return torch.cat([self.left(x), self.right(x)], -1)


def images(count: int = 4) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=SIZE).astype(np.float32) for _ in range(count)]


def graph_of(module: nn.Module) -> GraphModule:
    return rewrite(export_graph(module.eval(), SIZE), ["response-norm"]).graph


def targets(graph: GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_function")


def spread(graph: GraphModule) -> float:
    """Ratio of the largest to the smallest peak among the channels of the last dense layer's input."""
    layer = [node for node in graph.graph.nodes if node.target in (A.conv2d.default, A.linear.default)][-1]
    recorded: list[torch.Tensor] = []

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            if n is layer:
                x = self.fetch_args_kwargs_from_env(n)[0][0].detach()
                recorded.append(x.abs().movedim(1 if n.target is A.conv2d.default else -1, 0).flatten(1).amax(1))
            return super().run_node(n)

    for image in images():
        Recorder(graph).run(torch.from_numpy(image))
    peaks = torch.stack(recorded).amax(0)
    return float(peaks.max() / peaks.min())


@pytest.mark.parametrize("kind", [ResponseNorm, Norm])
def test_the_function_and_its_operations_stay(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = kind()
    plain = graph_of(module)
    changed = copy.deepcopy(plain)
    assert equalize(changed, images(), 0.7) == 1
    assert targets(changed) == targets(plain)
    for image in images(8):
        x = torch.from_numpy(image)
        torch.testing.assert_close(changed(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [ResponseNorm, Norm])
def test_more_strength_makes_channels_more_alike(kind: type[nn.Module]) -> None:
    spreads = []
    for strength in (0.3, 0.7, 1.0):
        torch.manual_seed(0)
        graph = graph_of(kind())
        equalize(graph, images(), strength)
        spreads.append(spread(graph))
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] == pytest.approx(1, rel=1e-3)


def test_channels_that_are_always_zero_are_not_changed() -> None:
    torch.manual_seed(0)
    module = Norm()
    with torch.no_grad():
        module.norm.weight[2] = module.norm.bias[2] = 0
    plain = graph_of(module)
    changed = copy.deepcopy(plain)
    equalize(changed, images(), 0.7)
    x = torch.from_numpy(images()[0])
    assert torch.isfinite(changed(x)).all()
    torch.testing.assert_close(changed(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_node_with_other_consumers_is_not_changed() -> None:
    class Shared(Norm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x)
            both: torch.Tensor = self.left(x) + x[..., :4]
            return both

    assert equalize(graph_of(Shared()), images(), 0.7) == 0


def test_a_graph_without_such_places_is_not_changed() -> None:
    assert equalize(graph_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU())), images(), 0.7) == 0
