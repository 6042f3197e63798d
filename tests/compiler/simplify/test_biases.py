"""Constants that are added to the channels of a layer become its bias, and a bias of the image is added after it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.compiler.graph import A
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.simplify.biases import fold_biases, separate_biases
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


def test_biases_of_the_image_are_added_after_their_layers() -> None:
    class OfTheImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, stride=2), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            bias = self.fc(x.mean((0, 2, 3)))
            x = F.conv2d(x, self.conv.weight, bias, 2) + self.conv(x)
            return F.linear(x.mean((2, 3)), self.fc.weight, bias)

    torch.manual_seed(0)
    graph, places = simplified(OfTheImage(), torch.randn(1, 3, 8, 8), separate_biases)
    assert places == 2
    assert [layer.bias is None for layer in dense_layers(graph)] == [False, True, False, True]
