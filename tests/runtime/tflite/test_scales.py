"""INT8 models that the converter would refuse, or in which it would give values or biases the wrong scale."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.config.recipes import Recipe
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.tflite.backend import Backend, separate_quantizers
from edgekit.support.libraries import quiet
from tests.helpers.calibration import SideBySide, quantize
from tests.helpers.graphs import export_graph
from tests.helpers.litert import run_file
from tests.helpers.tiny import METADATA, X86

SHAPE = (1, 3, 16, 16)


class Concatenated(nn.Module):
    """A pooled value that a convolution reads alone, and another one next to values of a larger range."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.large, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        nn.init.normal_(self.large.weight, 0, 1)
        nn.init.constant_(self.large.bias, 3)  # type: ignore[arg-type]
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = nn.functional.max_pool2d(x * torch.sigmoid(self.gate(x)), 2)
        x = torch.cat([x, torch.relu(self.large(x))], 1)
        logits: Tensor = self.head(torch.relu(self.last(x)).mean((2, 3)))
        return logits


class ClassToken(nn.Module):
    """Tokens of small values after a class token of large ones."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.query = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)
        self.token, self.norm, self.head = nn.Parameter(torch.full((1, 1, 8), 20.0)), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token * torch.arange(8), self.patches(x).flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self.query(self.norm(tokens))
        logits: Tensor = self.head(self.norm(tokens).mean(1))
        return logits


class Positions(ClassToken):
    """A convolution of all tokens but the class token, as in CoaT."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token * torch.arange(8), self.patches(x).flatten(2).transpose(1, 2)], 1)
        tokens = tokens + self.query(self.norm(tokens))
        near = self.near(tokens[:, 1:].transpose(1, 2).reshape(1, 8, 4, 4)).flatten(2).transpose(1, 2)
        logits: Tensor = self.head(self.norm(torch.cat([tokens[:, :1], near], 1)).mean(1))
        return logits


class Dense(nn.Module):
    """Values of two ranges that a batch norm reads, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 8, 1)
        nn.init.constant_(self.large.bias, 10)  # type: ignore[arg-type]
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(torch.cat([self.small(x), self.large(x)], 1)))
        logits: Tensor = self.head(self.last(x).mean((2, 3)))
        return logits


class DualPath(Dense):
    """Two batch norms of one concatenation, as in DPN."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.beside = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.small(x), self.large(x)], 1)
        both = self.last(torch.relu(self.norm(x))) + self.beside(torch.relu(self.other(x)))
        logits: Tensor = self.head(both.mean((2, 3)))
        return logits


class TalkingHeads(nn.Module):
    """A softmax of int8 values whose results a linear layer mixes, as in CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).reshape(1, 4, 8, 4).softmax(-1)
        logits: Tensor = self.head(self.mix(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


class Windows(nn.Module):
    """Overlapping windows, as in HaloNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.head = nn.Conv2d(3, 4, 1), nn.Linear(36, 8), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(self.first(x), [1, 1, 1, 1]).unfold(2, 6, 4).unfold(-2, 6, 4)
        logits: Tensor = self.head(self.mix(x.reshape(1, 4, 16, 36)).mean(2).flatten(1))
        return logits


class Outlook(nn.Module):
    """Windows that overlap and are added up, as in VOLO."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.head = nn.Conv2d(3, 4, 1), nn.Linear(16, 16), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.mix(nn.functional.unfold(self.first(x), 2, stride=1)[..., :16])
        x = nn.functional.fold(windows, (5, 5), 2, stride=1)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Halves(nn.Module):
    """A half of a value is joined with larger ones, as in ShuffleNet. Each time, they are taken in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)
        self.larger = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(6)])
        for layer in self.larger:
            nn.init.constant_(layer.bias, 3)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        even, odd = torch.arange(0, 16, 2), torch.arange(1, 16, 2)
        for place, larger in enumerate(self.larger):
            small, other = (
                x.chunk(2, 1),
                torch.split(x, [8, 8], 1),
                torch.unflatten(x, 1, (2, 8)).unbind(1),
                x.tensor_split(2, 1),
                (x.narrow(1, 0, 8), x.narrow(1, 8, 8)),
                (x.index_select(1, even), x.index_select(1, odd)),
            )[place]
            x = nn.functional.channel_shuffle(torch.cat([small, torch.relu(larger(other))], 1), 2)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Joined(nn.Module):
    """Values of two ranges that are stacked, compared and chosen from."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        self.large = nn.ModuleList([nn.Conv2d(3, 8, 1) for _ in range(4)])
        for layer in self.large:
            nn.init.normal_(layer.weight, 0, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        small, large = self.small(x), [layer(x) for layer in self.large]
        stacked = torch.stack([small, large[0]], 1).amax(1)
        larger, smaller = torch.maximum(small, large[1]), torch.minimum(small, large[2])
        chosen = torch.where(small > 0, small, large[3])
        logits: Tensor = self.head((stacked + larger + smaller + chosen).mean((2, 3)))
        return logits


class Branches(nn.Module):
    """Small values of both signs that each activation reads several times, and chooses among the results."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.mixes = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(7)])

    def forward(self, x: Tensor) -> Tensor:
        x, functional = self.first(x), nn.functional
        x = x / x.abs().amax((1, 2, 3), keepdim=True)
        of = [x - 0.02 * place for place in range(len(self.mixes))]
        activated = [
            functional.softplus(of[0], beta=2),
            functional.elu(of[1], 0.5),
            functional.celu(of[2], 0.2),
            torch.where(of[3] > 0, of[3], 0.1 * of[3]),
            torch.maximum(of[4], 0.1 * of[4]),
            torch.minimum(of[5], 0.1 * of[5]),
            torch.where(of[6] > 0.5, 0.5, torch.where(of[6] < 0, 0.1 * of[6], of[6])),
        ]
        mixed = [mix(value) for mix, value in zip(self.mixes, activated, strict=True)]
        logits: Tensor = self.head(torch.stack(mixed).sum(0).mean((2, 3)))
        return logits


class Turned(nn.Module):
    """Values between convolutions that are flipped or turned, or of which a threshold keeps some."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.rot90(self.first(x).flip(2), 1, (2, 3)))
        logits: Tensor = self.head(self.third(nn.functional.threshold(x, 0.1, 0.0))[..., 0, 3])
        return logits


class Pooled(nn.Module):
    """A concatenation of two ranges that a convolution and a pooling read, as in Inception, and poolings of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Linear(8, 5)
        nn.init.normal_(self.large.weight, 0, 3)
        self.mixes = nn.ModuleList([nn.Conv2d(16, 8, 1) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([torch.relu(self.small(x)), torch.relu(self.large(x))], 1)
        one, two, three, four = self.mixes
        mean = 3 * both.mean((2, 3), keepdim=True)
        x = one(both) + two(nn.functional.avg_pool2d(both, 3, 1, 1)) + three(nn.functional.avg_pool2d(mean, 3, 1, 1))
        exact = both / both.amax((2, 3), keepdim=True) - 0.5
        x = x + four(nn.functional.max_pool2d(exact, 3, 1, 1) * exact.amin((2, 3), keepdim=True))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Context(nn.Module):
    """Convolutions over one row of a product of matrices, as in GCNet and EfficientViM."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.keys, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Linear(8, 5)
        self.mix, self.gate = nn.Conv1d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        weights = self.keys(x).flatten(2).softmax(2).transpose(1, 2)
        summary = self.mix(x.flatten(2) @ weights).mean(2)
        x = x * self.gate(torch.bmm(x.flatten(2), weights[..., :1]).unsqueeze(3))
        logits: Tensor = self.head(x.mean((2, 3)) + summary)
        return logits


class Upsampled(nn.Module):
    """Transposed convolutions with paddings of their input and their output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)
        self.twice = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.thrice = nn.ConvTranspose2d(8, 8, 5, 3, (1, 0), output_padding=(2, 1), groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        logits: Tensor = self.head(self.twice(x).mean((2, 3)) + self.thrice(x).amax((2, 3)))
        return logits


class Expanded(nn.Module):
    """Small values between convolutions that are expanded or repeated to the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(24, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        rows, pixel = x.mean(3, True), x.mean((2, 3), True)
        x = nn.functional.normalize(x, dim=1) * pixel.sigmoid().expand_as(x) + rows.expand_as(x).relu()
        x = torch.cat([x, pixel.expand(-1, -1, 7, 7), rows.repeat(1, 1, 1, 7)], 1)
        logits: Tensor = self.head(self.last(x).mean((2, 3)))
        return logits


class Bicubic(nn.Module):
    """A bicubic interpolation of features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.interpolate(self.first(x), (9, 11), mode="bicubic")
        logits: Tensor = self.head(self.last(x).mean((2, 3)))
        return logits


class Excited(nn.Module):
    """Linear layers without a bias on a single row of four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 5)
        self.squeeze, self.excite = nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        row = nn.functional.hardswish(self.squeeze(x.mean((2, 3), True).permute(0, 2, 3, 1)))
        logits: Tensor = self.head((x * self.excite(row).sigmoid().permute(0, 3, 1, 2)).mean((2, 3)))
        return logits


def images() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=SHAPE).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize(("network", "separated"), [(ClassToken, 0), (Positions, 1), (TalkingHeads, 1)])
def test_quantizers_of_a_part_or_a_softmax_are_separated(network: type[nn.Module], separated: int) -> None:
    torch.manual_seed(0)
    graph = quantize(export_graph(network().eval(), SHAPE), images(), Recipe.load("default"), "tflite")
    before = len(graph.graph.nodes)
    separate_quantizers(graph)
    assert len(graph.graph.nodes) == before + separated


Networks = tuple[type[nn.Module], ...]
GROUPS: tuple[Networks, ...] = (
    (Concatenated, ClassToken, Positions, Dense, DualPath, TalkingHeads),
    (Windows, Outlook, Halves, Joined, Branches, Turned),
    (Pooled, Context, Upsampled, Expanded, Excited, Bicubic),
)
"""Networks that are converted together. All at once would take longer."""
FLOAT: Networks = (Upsampled, Expanded, Excited, Bicubic)


@cache
@torch.no_grad()
def logits_of(networks: Networks, quantized: bool) -> list[list[NDArray[np.float32]]]:
    """For each network its logits [N,5] by the calibrated graph, or else by the network, and those by the file."""
    computing: nn.Module = SideBySide(networks, images())
    graph = export_graph(computing, SHAPE)
    if quantized:
        computing = graph = quantize(graph, images(), Recipe.load("default"), "tflite")
    expected = np.concatenate([computing(torch.from_numpy(image)).numpy() for image in images()])
    with quiet(), TemporaryDirectory() as folder:
        Backend().compile(graph, Path(folder), METADATA, X86)
        both = np.stack([expected, run_file(Path(folder) / "model.tflite", images())])
    return [list(part) for part in np.split(both, len(networks), axis=2)]


@pytest.mark.parametrize(("group", "network"), [(group, network) for group in GROUPS for network in group])
def test_the_file_computes_what_the_calibrated_graph_does(group: Networks, network: type[nn.Module]) -> None:
    assert snr_db(*logits_of(group, quantized=True)[group.index(network)]) > 30


@pytest.mark.parametrize("network", FLOAT)
def test_a_float_file_computes_what_the_network_does(network: type[nn.Module]) -> None:
    assert snr_db(*logits_of(FLOAT, quantized=False)[FLOAT.index(network)]) > 90
