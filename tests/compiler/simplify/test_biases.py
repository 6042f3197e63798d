"""Constants that are added to the channels of a layer become its bias."""

import torch
from torch import Tensor, nn

from edgekit.compiler.graph import A
from edgekit.compiler.simplify.biases import fold_biases
from tests.helpers.graphs import simplified, targets_of


class Biases(nn.Module):
    """Layers whose biases are added after them, as in files of Paddle, and sums that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5, bias=False)
        self.biases = nn.ParameterList([torch.randn(4, 1, 1), torch.randn(1, 4, 1, 1), torch.randn(5)])
        self.place = nn.Parameter(torch.randn(1, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + self.biases[0]
        y = self.biases[1] + self.second(x)
        z = self.second(y)
        logits: Tensor = self.biases[2] + self.head((z + self.place + z * y).mean((2, 3)))
        return logits


def test_biases_behind_layers_are_folded() -> None:
    torch.manual_seed(0)
    graph, places = simplified(Biases(), torch.randn(1, 3, 8, 8), fold_biases)
    assert places == 3
    assert targets_of(graph).count(A.add.Tensor) == 2
