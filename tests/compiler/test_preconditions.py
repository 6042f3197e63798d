"""A rewrite leaves alone what it doesn't know: odd networks compute the same after each of them, and after all."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from edgekit.compiler.graph import refresh, trace
from edgekit.compiler.ranges import equalize
from edgekit.compiler.rewrites import APPROXIMATE, REWRITES, rewrite
from edgekit.compiler.simplify import SIMPLIFICATIONS
from tests.helpers.graphs import check_values, export_graph, targets_of

C = 8
EXACT = [name for name in REWRITES if name not in APPROXIMATE]
Step = Callable[["Odd", Tensor], Any]
STEPS: dict[str, Step] = {}
"""What the networks compute, by what is odd about it."""


class Odd(nn.Module):
    """Layers for an odd step on images [1,8,8,8], which the step may use as it likes."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.pointwise, self.other = nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 1, bias=False)
        self.conv = nn.Conv2d(C, C, 3)
        self.dilated = nn.Conv2d(C, C, 2, 2, dilation=2)
        self.multiplied = nn.Conv2d(C, 2 * C, 7, padding=3, groups=C)
        self.depthwise = nn.Conv2d(C, C, 7, padding=3, groups=C, bias=False)
        self.norm, self.batch_norm = nn.LayerNorm(C), nn.BatchNorm2d(C)
        self.fc, self.patch = nn.Linear(C, C), nn.Conv2d(C, C, 2, 2)
        self.wide = nn.Linear(64, C)
        self.scale, self.shift = nn.Parameter(torch.rand(C) + 0.5), nn.Parameter(torch.rand(C))
        for part in (self.norm, self.batch_norm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
        self.batch_norm.running_var = torch.rand(C) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.step(self, x)
        return out

    def response(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Global response norm on [N,H,W,C]."""
        length = torch.linalg.vector_norm(x, 2, (1, 2), True)
        return x + torch.addcmul(shift, scale, x * (length / (length.mean(-1, keepdim=True) + 1e-6)))


def step(name: str) -> Callable[[Step], Step]:
    def enter(function: Step) -> Step:
        STEPS[name] = function
        return function

    return enter


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


# What follows a permute.
step("a concatenation after a pointwise convolution")(lambda m, x: torch.cat([m.pointwise(x), m.other(x)], 1))
step("a concatenation of channels last")(lambda m, x: torch.cat([last(m.pointwise(x)), m.fc(last(x))], -1))
step("a stack after a pointwise convolution")(lambda m, x: torch.stack([m.pointwise(x), x]).sum(0))
step("an operand of five axes")(lambda m, x: m.pointwise(x) + x.reshape(1, 1, 8, 8, 8))
step("a constant of five axes")(lambda m, x: m.pointwise(x) * m.scale.view(1, 1, C, 1, 1))
step("an operand of three axes")(lambda m, x: m.pointwise(x) + x[0])
step("a sum of three values with a factor")(lambda m, x: torch.add(m.pointwise(x), m.other(x), alpha=3))
step("a mean over the channels")(lambda m, x: m.pointwise(x).mean(1))
step("a mean of everything")(lambda m, x: m.pointwise(x).mean(dim=(0, 1, 2, 3), keepdim=True))
step("a pooling to a row")(lambda m, x: F.adaptive_avg_pool2d(m.pointwise(x), (1, 4)))
step("a layer norm over an image after a permute")(lambda m, x: F.layer_norm(m.pointwise(x), (C, 8, 8)))
step("negative axes of a permute")(
    lambda m, x: (m.pointwise(x).permute(0, -2, -1, -3) * m.scale).permute(0, -1, -3, -2)
)
step("an image without a batch axis")(lambda m, x: m.pointwise(x[0]) + m.multiplied(x[0])[:C] + m.depthwise(x[0]))
step("a patch without a batch axis")(lambda m, x: m.patch(x[0]))
step("a batch norm behind a convolution without a batch axis")(lambda m, x: m.batch_norm(m.conv(x[0])[None]))
step("a constant behind a convolution without a batch axis")(lambda m, x: m.conv(x[0]) + m.shift.view(-1, 1, 1))
step("branches without a batch axis")(lambda m, x: m.pointwise(x[0]) + m.other(x[0]))
step("a layer norm behind a convolution without a batch axis")(lambda m, x: m.norm(m.conv(x[0]).permute(1, 2, 0)))
step("a layer norm before a convolution without a batch axis")(
    lambda m, x: m.pointwise(m.norm(last(x))[0].permute(2, 0, 1))
)
step("a bias of the image without a batch axis")(
    lambda m, x: with_bias(m.conv, m, x)[0] + F.conv2d(x[0], m.conv.weight, bias(m, x))
)

# Whose axis of channels isn't the last.
step("a layer norm before a linear layer over the pixels")(
    lambda m, x: m.wide(m.norm(x.flatten(2).permute(0, 2, 1)).permute(0, 2, 1))
)
step("as many rows as channels")(lambda m, x: m.fc(m.norm(last(x)[:, 0]).permute(0, 2, 1)))
step("a layer norm over the width")(lambda m, x: m.norm(m.conv(F.pad(x, (1, 1, 1, 1)))))
step("a layer norm over the width of permuted images")(lambda m, x: m.norm(m.pointwise(x).permute(0, 2, 1, 3)))
step("a layer norm over the width before a convolution")(lambda m, x: m.pointwise(m.norm(x)))
step("a layer norm over the height of channels last")(lambda m, x: m.norm(m.pointwise(x).permute(0, 3, 1, 2)))
step("a response norm over the width")(lambda m, x: m.pointwise(m.response(x, m.scale, m.shift)))
step("a response norm with the channels in the middle")(
    lambda m, x: m.fc(m.response(x, m.scale.view(-1, 1), m.shift.view(-1, 1)))
)
step("a response norm of one factor")(lambda m, x: m.fc(m.response(last(x), m.scale[:1], m.shift)))
step("a response norm with one shift")(lambda m, x: m.fc(m.response(last(x), m.scale, m.shift[:1])))

# Whose settings a rewrite doesn't know.
step("a dilated patch")(lambda m, x: m.dilated(x))
step("a dilated patch of channels last")(lambda m, x: m.dilated(m.pointwise(x)))
step("a depthwise convolution with two outputs a channel")(lambda m, x: m.multiplied(x))
step("a norm of everything")(lambda m, x: m.fc(last(x)) / torch.linalg.vector_norm(x))
step("a norm without keepdim")(lambda m, x: torch.linalg.vector_norm(last(x), 2, (1, 2)))
step("a norm over negative axes")(lambda m, x: torch.linalg.vector_norm(last(x), dim=(-3, -2), keepdim=True))
step("a norm in double")(lambda m, x: torch.linalg.vector_norm(x, 2, (2, 3), True, dtype=torch.float64).float())


@step("a response norm whose product is read again")
def _(m: Odd, x: Tensor) -> Any:
    y = last(x)
    scaled = torch.linalg.vector_norm(y, 2, (1, 2), True) * m.scale
    return m.fc(y * (scaled + 1.0)) + scaled


@step("a response norm whose factor is doubled")
def _(m: Odd, x: Tensor) -> Any:
    y = last(x)
    return m.fc(y * torch.add(torch.linalg.vector_norm(y, 2, (1, 2), True) * m.scale, 1.0, alpha=2))


@step("a response norm by a number")
def _(m: Odd, x: Tensor) -> Any:
    y = last(x)
    return m.fc(y + torch.addcmul(m.shift, m.scale, y * 0.5))


@step("a response norm with a factor of the shift")
def _(m: Odd, x: Tensor) -> Any:
    y = last(x)
    return m.fc(torch.add(y, torch.addcmul(m.shift, m.scale, y * y.mean((1, 2), keepdim=True)), alpha=2))


# Whose weights or biases depend on the image.
def bias(m: Odd, x: Tensor) -> Any:
    return m.fc(x.mean((0, 2, 3)))


def with_bias(layer: nn.Conv2d, m: Odd, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, bias(m, x), layer.stride, layer.padding, 1, layer.groups)


step("a bias of the image")(lambda m, x: with_bias(m.conv, m, x))
step("a pointwise bias of the image")(lambda m, x: with_bias(m.pointwise, m, x))
step("a depthwise bias of the image")(lambda m, x: with_bias(m.depthwise, m, x))
step("a patch's bias of the image")(lambda m, x: with_bias(m.patch, m, x))
step("a patch's bias of the image on channels last")(lambda m, x: with_bias(m.patch, m, m.pointwise(x)))
step("a linear bias of the image")(lambda m, x: F.linear(last(x), m.fc.weight, bias(m, x)))
step("a batch norm after a bias of the image")(lambda m, x: m.batch_norm(with_bias(m.conv, m, x)))
step("a batch norm before a bias of the image")(lambda m, x: with_bias(m.pointwise, m, m.batch_norm(x)))
step("a layer norm before a bias of the image")(lambda m, x: F.linear(m.norm(last(x)), m.fc.weight, bias(m, x)))
step("a layer norm after a bias of the image")(lambda m, x: m.norm(last(with_bias(m.conv, m, x))))
step("a layer scale after a bias of the image")(lambda m, x: last(with_bias(m.conv, m, x)) * m.scale)
step("a constant after a bias of the image")(lambda m, x: with_bias(m.conv, m, x) + m.shift.view(-1, 1, 1))
step("branches with a bias of the image")(lambda m, x: with_bias(m.pointwise, m, x) + m.pointwise(x))
step("a response norm before a bias of the image")(
    lambda m, x: F.linear(m.response(last(x), m.scale, m.shift), m.fc.weight, bias(m, x))
)
step("a layer norm before a weight of the image")(
    lambda m, x: F.linear(m.norm(last(x)), m.fc.weight * x.mean() + x[0, 0], m.fc.bias)
)
step("a response norm before a weight of the image")(
    lambda m, x: F.linear(m.response(last(x), m.scale, m.shift), x[0, 0])
)
step("a layer norm whose bias is of the image")(
    lambda m, x: m.fc(F.layer_norm(last(x), (C,), m.norm.weight, bias(m, x)))
)
step("a layer norm whose weight is of the image")(
    lambda m, x: m.fc(F.layer_norm(last(x), (C,), bias(m, x), m.norm.bias))
)
step("a layer norm of a weight alone")(lambda m, x: m.fc(F.layer_norm(last(x), (C,), m.norm.weight)))


def attend(*shapes: tuple[int, ...]) -> Step:
    """Attention over parts of the image in these shapes."""

    def run(m: Odd, x: Tensor) -> Tensor:
        parts: Any = [x.flatten()[: math.prod(shape)].view(shape) for shape in shapes]
        return F.scaled_dot_product_attention(*parts)

    return run


step("keys that all queries of an outer axis share")(attend((1, 2, 2, 4, 8), (1, 1, 2, 3, 8), (1, 1, 2, 3, 8)))
step("values that all heads share")(attend((1, 2, 2, 4, 8), (1, 2, 2, 3, 8), (1, 2, 1, 3, 8)))
step("keys of fewer axes")(attend((1, 2, 2, 4, 8), (2, 3, 8), (2, 3, 8)))
step("an attention mask of two axes")(attend((1, 2, 2, 4, 8), (1, 2, 2, 3, 8), (1, 2, 2, 3, 8), (4, 3)))


@pytest.fixture(autouse=True)
def checked_passes() -> None:
    """Values are checked here, after each pass."""


@pytest.fixture(params=STEPS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return Odd(STEPS[request.param]).eval().requires_grad_(False)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, C, 8, 8, generator=torch.Generator().manual_seed(1))


def check(graph: GraphModule, network: nn.Module, image: Tensor, what: str) -> None:
    torch.testing.assert_close(graph(image), network(image), rtol=1e-4, atol=1e-4, msg=lambda why: f"{what}: {why}")


def check_rewrites(graph: GraphModule, network: nn.Module, image: Tensor) -> None:
    """Compare the graph with the network after each rewrite that changes it, and after all of them."""
    before = targets_of(graph)
    check(graph, network, image, "the graph itself")
    for name in EXACT:
        new = rewrite(graph, [name]).graph
        if targets_of(new) != before or name == "centred-layer-norm":
            check_values(new)
            check(new, network, image, name)
    check(rewrite(graph, EXACT).graph, network, image, "all rewrites")


def test_rewrites_are_exact(network: nn.Module, image: Tensor) -> None:
    graph = export_graph(network, image.shape)
    check_values(graph)
    check_rewrites(graph, network, image)


@pytest.mark.parametrize("network", [name for name in STEPS if "of the image" in name], indirect=True)
def test_no_pass_drops_a_bias_of_the_image(network: nn.Module, image: Tensor) -> None:
    """The passes would also know such a bias if none had separated it from its layer."""
    graph = trace(network, image.shape)
    for apply in SIMPLIFICATIONS:
        if apply.__name__ != "separate_biases":
            apply(graph)
    check_rewrites(refresh(graph), network, image)


@pytest.mark.parametrize("network", [name for name in STEPS if " norm" in name], indirect=True)
def test_equalization_is_exact(network: nn.Module, image: Tensor) -> None:
    graph = rewrite(export_graph(network, image.shape), ["response-norm"]).graph
    equalize(graph, [np.asarray(image)], 0.5)
    check(graph, network, image, "equalization")
