"""Layers are read from the nodes of a graph as their modules describe them."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A, trace
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers, fixed_weights, layers


class Two(nn.Module):
    """A convolution or linear layer, and an operation that is none."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(layer, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


def only_layer(module: nn.Module) -> DenseLayer:
    (layer,) = dense_layers(trace(Two(module), (1, 4, 9, 4)))
    return layer


def test_a_convolution() -> None:
    layer = only_layer(nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2))
    assert layer.name == "inner.0"
    assert layer.source.op == "placeholder"
    assert layer.bias is not None
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((2, 1), (1, 0), (1, 2), 2)
    assert (layer.is_conv, layer.is_depthwise, layer.kernel, layer.channel_axis) == (True, False, (3, 2), 1)


def test_a_depthwise_convolution_without_a_bias() -> None:
    layer = only_layer(nn.Conv2d(4, 4, 3, groups=4, bias=False))
    assert layer.is_depthwise
    assert layer.bias is None
    assert (layer.stride, layer.padding, layer.dilation) == ((1, 1), (0, 0), (1, 1))


def test_a_linear_layer() -> None:
    layer = only_layer(nn.Linear(4, 5))
    assert layer.name == "inner.0"
    assert (layer.is_conv, layer.is_depthwise, layer.kernel, layer.channel_axis) == (False, False, (), -1)
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((1, 1), (0, 0), (1, 1), 1)


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    assert not only_layer(nn.Conv2d(4, 4, 3)).is_depthwise
    (layer,) = dense_layers(trace(nn.Conv2d(1, 4, 3), (1, 1, 9, 9)))
    assert not layer.is_depthwise


def test_other_nodes_and_literals_are_no_dense_layers() -> None:
    graph = trace(Two(nn.Linear(4, 5)), (1, 4, 9, 4))
    (relu,) = graph.graph.find_nodes(op="call_function", target=A.relu.default)
    for other in (relu, None, 3, [relu]):
        assert dense_layer(other) is None


@pytest.mark.parametrize("module", [nn.Linear(4, 5), nn.Conv2d(4, 5, 1)])
def test_its_nodes_have_the_weight_and_the_bias(module: nn.Linear | nn.Conv2d) -> None:
    graph = trace(module, (1, 4, 9, 4))
    (layer,) = dense_layers(graph)
    weight, bias = fixed_weights(graph, layer) or (None, None)
    assert weight is not None
    assert bias is not None
    assert torch.equal(weight, module.weight)
    assert module.bias is not None
    assert torch.equal(bias, module.bias)


def test_weights_of_the_image_are_not_fixed() -> None:
    class OfTheImage(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, torch.ones(4, 4), x[0, 0, 0])

    graph = trace(OfTheImage(), (1, 4, 9, 4))
    (layer,) = dense_layers(graph)
    assert fixed_weights(graph, layer) is None


def test_learned_queries_multiply_and_a_sum_by_ones_does_not() -> None:
    class Queries(nn.Module):
        def __init__(self, queries: Tensor) -> None:
            super().__init__()
            self.queries = nn.Parameter(queries)

        def forward(self, x: Tensor) -> Tensor:
            return self.queries @ x

    learned, ones = (trace(Queries(queries), (1, 4, 9, 4)) for queries in (torch.randn(2, 9), torch.ones(1, 9)))
    assert [(layer.op, layer.macs) for _, layer in layers(learned)] == [("matmul", 4 * 2 * 9 * 4)]
    assert not list(layers(ones))


class Products(nn.Module):
    """Products that are never quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.up = nn.Conv1d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        rows = x.flatten(2)  # [1,4,36]
        return (
            self.row(rows),
            self.up(x),
            torch.baddbmm(torch.zeros(1, 4, 4), rows, rows.mT),
            torch.addmm(torch.zeros(4, 4), rows[0], rows[0].T),
            nn.functional.scaled_dot_product_attention(rows, rows, rows),
        )


def test_every_operation_that_multiplies_and_accumulates_is_a_layer() -> None:
    found = [layer for _, layer in layers(trace(Products(), (1, 4, 9, 4)))]
    assert [(layer.op, layer.macs) for layer in found] == [
        ("conv", 6 * 34 * 2 * 3),
        ("conv", 9 * 4 * 4 * 3 * 3 * 3),
        ("matmul", 4 * 4 * 36),
        ("matmul", 4 * 4 * 36),
        ("matmul", 2 * 4 * 4 * 36),
    ]
    assert [layer.name for layer in found[:2]] == ["row", "up"]
