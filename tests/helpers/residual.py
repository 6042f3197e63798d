"""A small ResNet, for tests of the operations between layers."""

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Stem, pooling, a block with a layer in its shortcut and one without: [1,3,H,W] -> [1,5].

    The first block's layer is dilated, because it would otherwise merge with the one in its shortcut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.two, self.three, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.stem(x).relu(), 3, 2, 1)
        x = (self.one(x) + self.two(x)).relu()
        x = (self.three(x) + x).relu()
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits
