"""Memory of images in a graph, and the images that fit into it."""

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.compiler.execution.memory import live_bytes, number_that_fits, subset_that_fits
from edgekit.compiler.export import trace


class Wide(nn.Module):
    """Doubles the number of values twice, and adds up all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(1000))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x], 1)
        x = torch.cat([x, x], 1)
        return x.sum((1, 2, 3)) + self.table.sum()


SAMPLES = [np.full((1, 3, 4, 4), index, np.float32) for index in range(10)]
ONE = 4 * 3 * 4 * 4
"""Bytes of an image."""


def test_bytes_of_an_image_count_the_values_that_later_nodes_need() -> None:
    graph = trace(Wide(), (1, 3, 4, 4))
    assert live_bytes(graph, torch.from_numpy(SAMPLES[0])) == 2 * ONE + 4 * ONE


def test_the_images_that_fit_are_evenly_spaced() -> None:
    graph = trace(Wide(), (1, 3, 4, 4))
    one = live_bytes(graph, torch.from_numpy(SAMPLES[0]))
    for memory, chosen in ((5 * one, [0, 2, 4, 6, 8]), (3 * one + 1, [0, 3, 6]), (1, [0]), (99 * one, [*range(10)])):
        assert [int(image.max()) for image in subset_that_fits(graph, SAMPLES, memory)] == chosen
    assert number_that_fits(graph, torch.from_numpy(SAMPLES[0]), 4 * one) == 4
