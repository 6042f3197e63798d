"""Unfold and fold become gathers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify.windows import gather_overlaps, gather_windows
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
