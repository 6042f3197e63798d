"""Nodes whose value is that of their input are removed."""

import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify import (
    remove_assertions,
    remove_copies,
    remove_empty_paddings,
    remove_expansions,
    remove_infinite_limits,
    remove_zero_branches,
    remove_zero_sums,
)
from tests.helpers.graphs import simplified, targets_of

IMAGE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Copies(nn.Module):
    """A copy, two conversions to the same dtype, dropout, and a conversion that changes the dtype."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().float().to(torch.float32, copy=True)
        return nn.functional.dropout(x, 0.5, self.training).double() * 2


def test_checks_of_dtypes_are_removed() -> None:
    graph, places = simplified(Copies(), IMAGE, remove_assertions)
    assert places > 0
    assert A._assert_tensor_metadata.default not in targets_of(graph)


def test_copies_are_removed() -> None:
    graph, places = simplified(Copies(), IMAGE, remove_assertions, remove_copies)
    assert places > 0
    assert targets_of(graph) == [A.to.dtype, A.mul.Tensor]


def test_infinite_limits_are_removed() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.least, self.low, self.high, self.most = (
                nn.Buffer(torch.tensor(limit)) for limit in (-float("inf"), -0.5, 0.5, float("inf"))
            )

        def forward(self, x: Tensor) -> Tensor:
            return torch.clamp(torch.clamp(x, self.least, self.most), self.low, self.high)

    graph, places = simplified(Clipped(), IMAGE, remove_infinite_limits)
    assert places == 1
    assert targets_of(graph) == [A.clamp.Tensor]


def test_padding_of_width_0_is_removed() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pad(nn.functional.pad(x, (0, 0, 0, 0)), (0, 1))

    graph, places = simplified(Padded(), IMAGE, remove_empty_paddings)
    assert places == 1
    assert targets_of(graph) == [A.pad.default]


def test_sums_with_the_number_0_are_removed() -> None:
    class Added(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (0 + x) - 0.0 + (x.to(torch.int32) + 0.0) + 1

    graph, places = simplified(Added(), IMAGE, remove_assertions, remove_zero_sums)
    assert places == 2
    assert targets_of(graph) == [A.to.dtype, A.add.Tensor, A.add.Tensor, A.add.Tensor]


def test_expansions_of_operands_that_are_broadcast_are_removed() -> None:
    class Normalized(nn.Module):
        """The last expansion decides the shape of the sum, and the one before that of the result."""

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.normalize(x, dim=1) + x.mean((2, 3), True).expand(x.shape)
            row = x.mean(2, True)
            return x + (row.expand_as(x) + row) + torch.cat([row.expand_as(x)[:, :2], x[:, :1]], 1)

    graph, places = simplified(Normalized(), IMAGE, remove_expansions)
    assert places == 2
    assert targets_of(graph).count(A.expand_as.default) == 2
    torch.testing.assert_close(graph(IMAGE), Normalized()(IMAGE))


class Untrained(nn.Module):
    """Branches with factors of zero, and others that stay, because of a factor, of `alpha` or of the sum's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(5))
        self.gain, self.scale = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3, 1, 1))
        self.mixed = nn.Parameter(torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.convolutions[0](x) * self.gain
        x = self.scale * self.convolutions[1](x).relu() + x
        x = x + self.convolutions[2](x) * self.mixed
        x = torch.add(self.convolutions[3](x) * self.gain, x, alpha=2)
        total: Tensor = x.mean((2, 3), keepdim=True) + self.convolutions[4](x) * self.scale
        return total


def test_branches_with_factors_of_zero_are_removed() -> None:
    graph, places = simplified(Untrained(), IMAGE, remove_zero_branches)
    assert places == 2
    assert targets_of(graph).count(A.conv2d.default) == 3
