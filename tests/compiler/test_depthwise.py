"""Depthwise convolutions of every kind get forms for which runtimes have fast kernels, with the same outputs."""

from typing import Any

import pytest
import torch
from torch import nn

from edgekit.compiler.layers import dense_layers
from edgekit.compiler.nodes import shape_of
from edgekit.compiler.rewrites.depthwise import depth_multiplier, depthwise_blocks, split_depthwise
from tests.helpers.graphs import simplified

IMAGE = torch.randn(1, 6, 20, 24, generator=torch.Generator().manual_seed(0))


def convolution(kernel: Any, multiplier: int = 1, **settings: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(6, 6 * multiplier, kernel, groups=6, **settings))


@pytest.mark.parametrize(
    ("module", "kernels"),
    [
        (convolution(7, padding=3), 5),
        (convolution(7, padding=3, stride=2), 5),
        (convolution(7, padding=3, stride=(1, 2), bias=False), 5),
        (convolution(7, padding=9, dilation=3), 5),
        (convolution(7, padding=(2, 5)), 5),
        (convolution(7, padding=3, stride=2, multiplier=2), 5),
        (convolution(9, padding=4), 4),
        (convolution(9, padding=(1, 4), stride=2), 4),
        (convolution(9), 1),
        (convolution(7, padding=1), 1),
        (convolution(7, padding=3, dilation=2), 1),
        (convolution((7, 9), padding=3), 1),
        (convolution(5, padding=2), 1),
    ],
)
def test_large_kernels_are_split_if_they_are_padded(module: nn.Module, kernels: int) -> None:
    graph, places = simplified(module, IMAGE, split_depthwise)
    assert places == (kernels > 1)
    assert len(list(dense_layers(graph))) == kernels


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        (convolution(7, padding=3, stride=2, multiplier=2), 1),
        (convolution(3, padding=1, multiplier=3, bias=False), 1),
        (convolution((1, 5), padding=(0, 2), multiplier=2), 1),
        (convolution(3), 0),
        (nn.Sequential(nn.Conv2d(6, 12, 3, groups=3)), 0),
        (nn.Sequential(nn.Conv2d(6, 12, 3)), 0),
    ],
)
def test_each_channel_gets_one_output(module: nn.Module, changed: int) -> None:
    graph, places = simplified(module, IMAGE, depth_multiplier)
    assert places == changed
    (layer,) = dense_layers(graph)
    assert not changed or layer.groups == shape_of(layer.weight)[0]


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        (convolution(7, padding=3), 1),
        (convolution(7, padding=3, multiplier=2), 1),
        (convolution(9, padding=4), 1),
        (convolution(9, padding=3), 0),
        (convolution(7, padding=3, stride=2), 0),
        (convolution(7, padding=9, dilation=3), 0),
        (convolution(7, padding=2), 0),
    ],
)
def test_blocks_need_whole_blocks_and_one_output_for_each_channel(module: nn.Module, changed: int) -> None:
    _, places = simplified(module, IMAGE, depth_multiplier, depthwise_blocks)
    assert places == changed
