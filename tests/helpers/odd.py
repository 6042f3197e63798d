"""Factories of odd tiny classifiers, such as `tests.helpers.odd:grey` and `tests.helpers.odd:wide`."""

from collections import OrderedDict

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame
from torch import nn
from torch.nn import functional as F

from edgekit.models.checkpoint import randomize

GREY_SIZE, WIDE_SIZE = (37, 29), (31, 33)
"""Heights and widths, all odd, so that stride 2 doesn't divide them."""


class Pad(nn.Module):
    """Zero padding (left, right, top, bottom)."""

    def __init__(self, *sides: int) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, self.sides)


def grey(classes: int = 2) -> nn.Module:
    """[1,1,37,29] -> [1,classes], with torch's own paddings and `F.pad` at one side more than at the other."""
    return _seeded(
        GREY_SIZE,
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Pad(1, 0, 2, 1),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.Conv2d(8, 16, 3, padding=2, dilation=2),
        nn.Hardswish(),
        nn.Conv2d(16, 16, 4, padding="same"),
        nn.GELU(),
        nn.MaxPool2d(3, 2, padding=1),
        Pad(0, 3, 0, 0),
        nn.Conv2d(16, 24, (3, 5), padding=(0, 1)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 3 * 5, classes),
    )


def wide(classes: int = 21_843) -> nn.Module:
    """[1,3,31,33] -> [1,classes], with TensorFlow's 'same' padding as in timm's tf_ models, and a resize."""
    return _seeded(
        WIDE_SIZE,
        Conv2dSame(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        Conv2dSame(8, 8, 5, stride=2, groups=8),
        AvgPool2dSame(3, stride=2),
        Conv2dSame(8, 2, 3, dilation=2),
        nn.ReLU6(),
        nn.Upsample((6, 7), mode="bilinear"),
        nn.Flatten(),
        nn.Linear(2 * 6 * 7, classes),
    )


class Exporting(nn.Module):
    """GELU, except in the graph that torch.export makes of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) if torch.compiler.is_exporting() else F.gelu(x)


def two_faced() -> nn.Module:
    """[1,3,16,16] -> [1,10], whose graph computes something else. It stands for any defect of the export."""
    layers = OrderedDict(stem=nn.Conv2d(3, 8, 3), act=Exporting(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())
    network = nn.Sequential(layers | OrderedDict(head=nn.Linear(8, 10)))
    randomize(network, (16, 16))
    return network


class Dazzled(nn.Module):
    """Its output is NaN for an image that is almost white."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sqrt(2 - x.mean((1, 2, 3), keepdim=True))


def dazzled() -> nn.Module:
    """[1,3,16,16] -> [1,2]."""
    torch.manual_seed(0)
    return nn.Sequential(Dazzled(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2))


def _seeded(size: tuple[int, int], *layers: nn.Module) -> nn.Module:
    """The layers in sequence, with weights for which different images get different logits."""
    network = nn.Sequential(*layers)
    randomize(network, size)
    return network


class PaddleBlock(nn.Module):
    """A residual block with squeeze-excite and h-swish whose biases stand apart, as in files that Paddle exports."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels, 16, 1, bias=False), nn.Conv2d(16, channels, 1, bias=False)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1, bias=False), nn.Conv2d(8, 16, 1, bias=False)
        self.norm, self.depthwise = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.biases = nn.ParameterList([torch.randn(1, size, 1, 1) for size in (8, 16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.wide(x))
        y = self.depthwise(y * F.relu6(y + 3) / 6)
        gate = F.relu(self.squeeze(y.mean((2, 3), keepdim=True)) + self.biases[0])
        gate = F.relu6(self.excite(gate) + self.biases[1] + 3) / 6
        narrow: torch.Tensor = self.narrow(y * gate)
        return x + narrow


def paddle(classes: int = 10) -> nn.Module:
    """[1,3,16,16] -> [1,classes], also on the meta device."""
    torch.manual_seed(0)
    layers = (PaddleBlock(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), *layers)
