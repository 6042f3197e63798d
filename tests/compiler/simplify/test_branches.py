"""Parallel convolutions of one input become one convolution; residual sums stay."""

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.arithmetic import fold_batch_norms, merge_branches
from edgekit.compiler.graph import A
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.simplify import remove_copies, remove_zero_sums
from tests.compiler.simplify.test_batch_norms import with_statistics
from tests.helpers.graphs import simplified, targets_of

IMAGE = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))


def norm() -> nn.Module:
    return with_statistics(nn.BatchNorm2d(8))  # type: ignore[no-any-return]


def conv(size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution centred on its pixel, and its batch norm."""
    return nn.Sequential(nn.Conv2d(8, 8, size, stride, size // 2, groups=groups), norm())


class Training(nn.Module):
    """A block of RepVGG or MobileOne: convolutions and the input, each with a batch norm, added up from 0."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = 0  # type: ignore[assignment]
        for branch in self.branches:
            total = total + branch(x)
        return total.relu()


class Mixer(nn.Module):
    """FastViT's token mixer: a residual sum of a scaled difference of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer, self.norm = Training(norm(), conv(3, groups=8)), norm()
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = sum(branch(x) for branch in self.mixer.branches)
        return x + (mixed - self.norm(x)) * self.scale  # type: ignore[no-any-return]


class Normed(nn.Module):
    """RepViT's token mixer: a batch norm of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small, self.norm = conv(3, groups=8), nn.Conv2d(8, 8, 1, groups=8), norm()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.large(x) + self.small(x) + x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "network",
    [
        Training(conv(3), conv(1), norm()),
        Training(conv(3, stride=2), conv(1, stride=2)),
        Training(conv(1, groups=2), norm()),
        Training(conv(5, groups=8), conv(3, groups=8), conv(1, groups=8)),
        Mixer(),
        Normed(),
    ],
    ids=("RepVGG", "strided", "grouped", "depthwise", "FastViT", "RepViT"),
)
def test_branches_become_one_convolution(network: nn.Module) -> None:
    passes = (remove_copies, remove_zero_sums, merge_branches)
    graph, places = simplified(network, IMAGE, *passes)
    assert places == 1
    simplified(network, IMAGE, *passes, fold_batch_norms)
    left = [target for target in targets_of(graph) if target not in (A.relu.default, A.batch_norm.default)]
    assert left == [A.conv2d.default]


def test_the_largest_branch_gives_its_name() -> None:
    graph, _ = simplified(Training(conv(1), conv(3)), IMAGE, remove_zero_sums, merge_branches)
    assert [layer.name for layer in dense_layers(graph)] == ["branches.1.0"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)  # type: ignore[no-any-return]


class Shared(nn.Module):
    """A branch that is also read elsewhere would be computed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3), conv(1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return (first + self.second(x)) * first.sigmoid()  # type: ignore[no-any-return]


class Chained(nn.Module):
    """The second convolution reads the first one's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3), conv(1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return first + self.second(first)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "network",
    [
        Residual(),
        Shared(),
        Chained(),
        Training(conv(3), conv(3, groups=8)),
        Training(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 1)),
        Training(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)),
        Training(nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Conv2d(8, 8, (3, 1), padding=(1, 0))),
    ],
    ids=("residual", "shared", "chained", "other groups", "dilated", "broadcast", "asymmetric"),
)
def test_other_sums_stay(network: nn.Module) -> None:
    before, _ = simplified(network, IMAGE, remove_zero_sums)
    after, places = simplified(network, IMAGE, remove_zero_sums, merge_branches)
    assert places == 0
    assert targets_of(after) == targets_of(before)
