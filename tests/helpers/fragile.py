"""A classifier that per-tensor INT8 destroys at one layer, `tests.helpers.fragile:network`."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import Preprocessing

FRAGILE = "middle"
"""The layer in whose input every other channel is a thousand times as large as its neighbours."""
SIDE, CLASSES, WIDTH, RIDGE = 32, 10, 48, 1.0
FACTOR = 1000.0


class Fragile(nn.Module):
    """[N,3,32,32] -> [N,10]."""

    factors: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.middle = nn.Conv2d(WIDTH, WIDTH, 1)
        self.last = nn.Conv2d(WIDTH, WIDTH, 1)
        self.head = nn.Linear(16 * WIDTH, CLASSES)
        factors = torch.ones(WIDTH, 1, 1)
        factors[::2] = FACTOR
        self.register_buffer("factors", factors)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.first(x)) * self.factors
        x = nn.functional.hardswish(self.middle(x))
        return nn.functional.hardswish(self.last(x)).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def network() -> Fragile:
    """The network with random layers, and weights that undo the large channels."""
    torch.manual_seed(0)
    module = Fragile()
    with torch.no_grad():
        module.middle.weight[:, ::2] /= FACTOR
    return module


def save_trained(data: Path, file: Path) -> None:
    """Save the weights of a network whose head classifies the images of a data set (ridge regression)."""
    module = network()
    half = (0.5, 0.5, 0.5)
    dataset = Dataset.open(data, [f"class_{label}" for label in range(CLASSES)])
    preprocessing = Preprocessing(SIDE, SIDE, "bilinear", 1.0, "center", half, half)
    crops = dataset.crop(dataset.samples, preprocessing)
    with torch.no_grad():
        features = module.features(torch.from_numpy(preprocessing.normalize(crops.pixels))).double()
        mean = features.mean(0)
        centred = features - mean
        wanted = 10 * nn.functional.one_hot(torch.from_numpy(crops.labels), CLASSES).double()
        dual = torch.linalg.solve(centred @ centred.T + RIDGE * torch.eye(len(centred)), wanted)
        weight = (centred.T @ dual).T
        module.head.weight.copy_(weight)
        module.head.bias.copy_(-(weight @ mean))
    save_file(module.state_dict(), file)
