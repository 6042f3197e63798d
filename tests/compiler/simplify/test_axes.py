"""Convolutions and attention get the axes that passes and exporters know, and compute the same."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.arithmetic import fold_batch_norms
from edgekit.compiler.graph import A, shape_of
from edgekit.compiler.simplify import give_attention_four_axes, give_convolutions_four_axes
from tests.helpers.graphs import simplified, targets_of

CONVOLUTIONS = {
    "plain": nn.Conv1d(3, 4, 3),
    "strided": nn.Conv1d(3, 6, 5, stride=2, padding=2, groups=3, bias=False),
    "dilated": nn.Conv1d(3, 4, 3, padding=4, dilation=2),
    "same": nn.Conv1d(3, 4, 3, padding="same"),
    "valid": nn.Conv1d(3, 4, 3, padding="valid", dilation=3),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_over_one_axis(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), CONVOLUTIONS[name])
    graph, places = simplified(network, torch.randn(1, 3, 4, 5), give_convolutions_four_axes)
    assert places == 1
    target = A.conv2d.padding if name in ("same", "valid") else A.conv2d.default
    assert targets_of(graph).count(target) == 1


def test_norms_and_activations_between_convolutions_need_no_views() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.GELU())
    network = nn.Sequential(nn.Flatten(2), *layers)
    graph, _ = simplified(network, torch.randn(1, 3, 4, 5), give_convolutions_four_axes, fold_batch_norms)
    targets = targets_of(graph)
    assert A.batch_norm.default not in targets
    assert targets.count(A.squeeze.dim) == 1
    assert [target for target in targets if target in (A.conv2d.default, A.relu.default, A.gelu.default)] == [
        A.conv2d.default,
        A.relu.default,
        A.conv2d.default,
        A.gelu.default,
    ]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_over_one_axis_without_images(name: str) -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[0].flatten(1)

    torch.manual_seed(0)
    network = nn.Sequential(First(), CONVOLUTIONS[name])
    graph, places = simplified(network, torch.randn(1, 3, 4, 5), give_convolutions_four_axes)
    assert (places, targets_of(graph).count(A.unsqueeze.default)) == (1, 2)


@pytest.mark.parametrize("padding", [1, "same"])
def test_a_convolution_of_an_image_alone(padding: int | str) -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[0]

    torch.manual_seed(0)
    network = nn.Sequential(First(), nn.Conv2d(3, 4, 3, padding=padding), nn.ReLU())
    graph, places = simplified(network, torch.randn(1, 3, 4, 5), give_convolutions_four_axes)
    assert (places, targets_of(graph).count(A.squeeze.dim)) == (1, 1)


IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class BlockAttention(nn.Module):
    """Attention within blocks of an image, as in NesT."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = x.reshape(1, 3, 2, 4, 8, 4).unbind(1)
        return nn.functional.scaled_dot_product_attention(query, key, value)


class WindowAttention(nn.Module):
    """Attention with a mask over windows, without an axis for the batch, as in SAM."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = x.reshape(3, 4, 16, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, query @ key.mT)
        return mixed.reshape(1, 4, 16, 4).transpose(1, 2).reshape(1, 16, 16)


@pytest.mark.parametrize(("network", "shape"), [(BlockAttention, (2, 4, 8, 4)), (WindowAttention, (1, 4, 16, 4))])
def test_an_attention_gets_four_axes(network: type[nn.Module], shape: tuple[int, ...]) -> None:
    graph, places = simplified(network(), IMAGE, give_attention_four_axes)
    assert places == 1
    (attention,) = graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default)
    assert shape_of(attention) == shape
    torch.export.export(graph, (IMAGE,)).run_decompositions()


def test_a_mask_that_broadcasts_over_outer_axes() -> None:
    class Broadcast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            query, key, value = x.reshape(1, 3, 2, 4, 8, 4).unbind(1)
            return nn.functional.scaled_dot_product_attention(query, key, value, torch.ones(1, 1, 4, 8, 8))

    graph, places = simplified(Broadcast(), IMAGE, give_attention_four_axes)
    assert places == 1
    (attention,) = graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default)
    assert len(shape_of(attention)) == 4
