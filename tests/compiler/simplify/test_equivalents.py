"""Operations become others that compute the same."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.layers import layers
from edgekit.compiler.simplify import (
    compare_booleans,
    fix_adaptive_max_pooling,
    fix_random_slopes,
    number_paddings,
    remove_copies,
    rename_operations,
    simplify,
)
from tests.helpers.graphs import simplified, targets_of

IMAGE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Logic(nn.Module):
    """Each operator of Python on booleans, an exclusive or of integers, and a view."""

    def forward(self, x: Tensor) -> Tensor:
        outside = (x < -1) | (x > 1)
        inside = (outside ^ (x > 0)) & (x < 2)
        levels = (x * 10).int()
        return torch.where(inside, x, levels ^ 3).view(1, -1)


def test_operators_and_views_get_other_names() -> None:
    graph, places = simplified(Logic(), IMAGE, rename_operations)
    assert places == 4
    targets = targets_of(graph)
    for new in (A.bitwise_and.Tensor, A.bitwise_or.Tensor, A.bitwise_xor.Tensor, A.reshape.default):
        assert targets.count(new) == 1


def test_an_exclusive_or_of_booleans_is_a_comparison() -> None:
    graph, places = simplified(Logic(), IMAGE, rename_operations, compare_booleans)
    assert places == 1
    assert targets_of(graph).count(A.ne.Tensor) == 1
    assert A.bitwise_xor.Tensor not in targets_of(graph)


class Rows(nn.Module):
    """The reshape of a permuted value, as torch traces it in functions of torchvision's Swin: a copy and a view."""

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = A._unsafe_view.default(x.permute(0, 2, 3, 1).contiguous(), [-1, 3])
        return rows


def test_the_view_of_a_copy_needs_no_copy() -> None:
    graph, _ = simplified(Rows(), IMAGE, rename_operations, remove_copies)
    assert targets_of(graph) == [A.permute.default, A.reshape.default]
    torch.testing.assert_close(graph(IMAGE), Rows()(IMAGE))


@pytest.mark.parametrize("network", [nn.RReLU(), nn.RReLU(0.2, 0.6)])
def test_a_random_slope_is_its_mean(network: nn.Module) -> None:
    network.eval()
    graph, places = simplified(network, IMAGE, fix_random_slopes)
    assert places == 1
    assert targets_of(graph) == [A.leaky_relu.default]
    torch.testing.assert_close(graph(IMAGE), network(IMAGE))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("options", "padding", "before"),
    [
        ({"kernel_size": 3, "padding": "same"}, [1, 1], None),
        ({"kernel_size": (1, 3), "padding": "same", "dilation": (3, 2)}, [0, 2], None),
        ({"kernel_size": 2, "padding": "same"}, [0, 0], [0, 1, 0, 1]),
        ({"kernel_size": (4, 3), "padding": "same", "groups": 3}, [1, 1], [0, 0, 0, 1]),
        ({"kernel_size": (3, 2), "padding": "same", "dilation": 3, "bias": False}, [3, 1], [0, 1, 0, 0]),
        ({"kernel_size": 3, "padding": "valid", "stride": (2, 1)}, [0, 0], None),
    ],
)
def test_a_convolution_with_a_named_padding_is_a_layer(
    options: dict[str, Any], padding: list[int], before: list[int] | None
) -> None:
    """Its batch norm is folded, and its multiply-accumulates are counted."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, **options), nn.BatchNorm2d(6)
    nn.init.uniform_(norm.weight)
    network = nn.Sequential(conv, norm).eval()
    image = torch.randn(1, 3, 9, 7)
    graph, _ = simplified(network, image, number_paddings)
    assert targets_of(graph)[: 1 + bool(before)] == [*[A.pad.default] * bool(before), A.conv2d.default]
    graph = simplify(graph)
    ((layer, counted),) = layers(graph)
    assert layer.args[4] == padding
    assert [node.args[1] for node in graph.graph.find_nodes(op="call_function", target=A.pad.default)] == (
        [before] if before else []
    )
    assert counted.macs == network(image).numel() * conv.weight[0].numel()
    assert targets_of(graph) == [*[A.pad.default] * bool(before), A.conv2d.default]
    torch.testing.assert_close(graph(image), network(image))


WIDE = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "target"), [(1, A.amax.default), ((2, 4), A.max_pool2d.default)])
def test_windows_of_one_size(size: Any, target: Any) -> None:
    graph, places = simplified(nn.AdaptiveMaxPool2d(size), WIDE, fix_adaptive_max_pooling)
    assert places == 1
    assert targets_of(graph) == [target]


class Places(nn.Module):
    """A pooling whose places of the maxima the network reads."""

    def forward(self, x: Tensor) -> Tensor:
        values, places = nn.functional.adaptive_max_pool2d(x, 1, return_indices=True)
        return values + places


@pytest.mark.parametrize("network", [nn.AdaptiveMaxPool2d(5), Places()])
def test_others_stay(network: nn.Module) -> None:
    graph, places = simplified(network, WIDE, fix_adaptive_max_pooling)
    assert places == 0
    assert A.adaptive_max_pool2d.default in targets_of(graph)
