"""Windows and writes become gathers of the same values."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify import (
    gather_overlaps,
    gather_strided_writes,
    gather_windows,
    remove_overwritten,
    select_by_mask,
)
from tests.helpers.graphs import simplified, targets_of


def test_an_unfold_becomes_a_gather() -> None:
    class Unfold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unfold(2, 3, 2).unfold(-2, 2, 1)

    image = torch.randn(1, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    graph, places = simplified(Unfold(), image, gather_windows)
    assert places == 2
    targets = targets_of(graph)
    assert A.unfold.default not in targets
    assert targets.count(A.index_select.default) == 2


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((8, 8), (3, 1, 1, 2)),
        ((7, 9), (3, 1, 1, 1)),
        ((8, 10), (2, 1, 0, 2)),
        ((9, 9), ((3, 2), (2, 1), (1, 0), (1, 3))),
    ],
)
def test_a_fold_becomes_a_gather(size: tuple[int, int], window: tuple[Any, ...]) -> None:
    """The windows overlap, are separate, or leave pixels out."""

    class Fold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.fold(x, size, *window)

    columns = nn.functional.unfold(torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0)), *window)
    graph, places = simplified(Fold(), columns, gather_overlaps)
    assert places == 1
    assert A.col2im.default not in targets_of(graph)


IMAGE = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_value_that_is_written_over_another_replaces_it() -> None:
    class Copied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.empty_like(x, dtype=torch.float64)
            y.copy_(x[:, :1])
            return y * 2

    graph, places = simplified(Copied(), IMAGE, remove_overwritten)
    assert places == 1
    assert targets_of(graph)[-3:] == [A.to.dtype, A.expand.default, A.mul.Tensor]


def test_a_value_that_is_written_where_a_mask_says_is_selected() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y[y > 0.5] = 0.5
            y[:, torch.tensor([0, 2])] = 1.0
            return y

    graph, places = simplified(Masked(), IMAGE, select_by_mask)
    assert places == 1
    targets = targets_of(graph)
    assert targets.count(A.where.self) == 1
    assert targets.count(A.index_put.default) == 1


def test_values_that_are_written_at_every_second_place_are_chosen() -> None:
    class Rotated(nn.Module):
        """Pairs of neighbours turned by an angle, as rotary position embeddings are often written."""

        def forward(self, x: Tensor) -> Tensor:
            y = torch.zeros_like(x)
            y[..., ::2] = 0.8 * x[..., ::2] - 0.6 * x[..., 1::2]
            y[..., 1::2] = 0.6 * x[..., ::2] + 0.8 * x[..., 1::2]
            y[:, 1] = 0.0
            return y

    graph, places = simplified(Rotated(), IMAGE, gather_strided_writes)
    assert places == 2
    torch.testing.assert_close(graph(IMAGE), Rotated()(IMAGE))
