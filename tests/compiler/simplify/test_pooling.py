"""Adaptive max pooling becomes what all runtimes have."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify.pooling import fix_adaptive_max_pooling
from tests.helpers.graphs import simplified, targets_of

IMAGE = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "target"), [(1, A.amax.default), ((2, 4), A.max_pool2d.default)])
def test_windows_of_one_size(size: Any, target: Any) -> None:
    graph, places = simplified(nn.AdaptiveMaxPool2d(size), IMAGE, fix_adaptive_max_pooling)
    assert places == 1
    assert targets_of(graph) == [target]


class Places(nn.Module):
    """A pooling whose places of the maxima the network reads."""

    def forward(self, x: Tensor) -> Tensor:
        values, places = nn.functional.adaptive_max_pool2d(x, 1, return_indices=True)
        return values + places


@pytest.mark.parametrize("network", [nn.AdaptiveMaxPool2d(5), Places()])
def test_others_stay(network: nn.Module) -> None:
    graph, places = simplified(network, IMAGE, fix_adaptive_max_pooling)
    assert places == 0
    assert A.adaptive_max_pool2d.default in targets_of(graph)
