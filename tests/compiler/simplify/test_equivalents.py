"""Operations that passes or runtimes don't know become equivalent ones."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify.equivalents import compare_booleans, fix_random_slopes, rename_operations
from edgekit.compiler.simplify.no_ops import remove_copies
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
