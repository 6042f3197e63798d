"""Batch norms become part of convolutions and linear layers, or a product and a sum."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.compiler.arithmetic import (
    activate_before_concatenations,
    fold_batch_norms,
    restore_activations,
    restore_batch_norms,
)
from edgekit.compiler.graph import A, trace
from edgekit.compiler.simplify import state_shapes
from tests.helpers.graphs import simplified, targets_of


def with_statistics(norm: Any) -> Any:
    """The norm with random statistics and, if it has any, random weights."""
    for values in norm.parameters():
        nn.init.uniform_(values, 0.5, 2.0)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 3)
    return norm


class Norms(nn.Module):
    """Batch norms that can't be folded into the convolution before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.padded = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList(with_statistics(nn.BatchNorm2d(8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.pointwise(self.norms[0](x))
        logits: Tensor = self.padded(self.norms[1](x)).mean((2, 3))
        return logits


def test_batch_norms_before_convolutions_are_folded_exactly() -> None:
    torch.manual_seed(0)
    graph, places = simplified(Norms(), torch.randn(1, 3, 8, 8), fold_batch_norms)
    assert places == 2
    assert A.batch_norm.default not in targets_of(graph)
    assert targets_of(graph).count(A.mul.Tensor) == 1  # the norm before the padded convolution


def test_batch_norms_without_weights_are_folded() -> None:
    torch.manual_seed(0)
    norms = [with_statistics(nn.BatchNorm2d(8, affine=False)) for _ in range(2)]
    network = nn.Sequential(nn.Conv2d(3, 8, 3), norms[0], nn.ReLU(), norms[1], nn.AvgPool2d(3))
    graph, places = simplified(network, torch.randn(1, 3, 8, 8), fold_batch_norms)
    assert places == 2
    assert A.batch_norm.default not in targets_of(graph)
    assert targets_of(graph).count(A.mul.Tensor) == 1  # the norm without a convolution


class Rows(nn.Module):
    """Linear layers with batch norms of rows: behind views, at once, of other channels, and with another consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(6, 6, bias=bias) for bias in (False, True, True, True))
        self.norms = nn.ModuleList(with_statistics(nn.BatchNorm1d(each)) for each in (6, 6, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linears[0](x.flatten(2).transpose(1, 2))
        x = self.norms[0](y.flatten(0, 1)).reshape_as(y)
        x = self.norms[2](self.linears[2](x)[:, :4])
        z = self.linears[3](x.mean(1))
        logits: Tensor = self.norms[1](self.linears[1](z)) + self.norms[3](z) + z
        return logits


def test_batch_norms_of_rows_are_folded_into_linear_layers() -> None:
    torch.manual_seed(0)
    graph, places = simplified(Rows(), torch.randn(1, 6, 3, 4), state_shapes, fold_batch_norms)
    assert places == 4
    assert targets_of(graph).count(A.mul.Tensor) == 2  # that of other channels, and that with another consumer


class Branches(nn.Module):
    """Convolutions of parts of an image that are concatenated, normalized and activated."""

    def __init__(self, activation: nn.Module, way: str) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(
            nn.Conv2d(groups, 2 * groups, side, (1, 2), side // 2, groups=groups, bias=side != 3)
            for groups, side in ((1, 3), (2, 5), (1, 1))
        )
        self.norm, self.activation, self.way = with_statistics(nn.BatchNorm2d(8)), activation, way

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = (
            kernel(part) for kernel, part in zip(self.kernels, torch.split(x, [1, 2, 1], 1), strict=True)
        )
        if self.way == "a part that no layer makes":
            three = three.exp()
        if self.way == "a part twice":
            joined = torch.cat([two, one, one], 1)
        elif self.way == "nested":
            joined = torch.cat([torch.cat([one, two], -3), three], 1)
        elif self.way == "along the height":
            joined = torch.cat([two, two + 0.5], 2).repeat(1, 2, 1, 1)
        else:
            joined = torch.cat([one, two, three], 1)
        y: Tensor = self.activation(self.norm(joined))
        return y + two.mean() if self.way == "a part with another reader" else y


@pytest.mark.parametrize("way", ["in order", "nested"])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.ReLU6(), nn.Hardswish(), nn.GELU("tanh")], ids=str)
def test_norms_and_activations_behind_a_concatenation_go_to_its_layers(activation: nn.Module, way: str) -> None:
    torch.manual_seed(0)
    passes = restore_activations, fold_batch_norms, activate_before_concatenations
    graph, places = simplified(Branches(activation, way), torch.randn(1, 4, 7, 10), *passes)
    assert places == 1
    assert not {A.batch_norm.default, A.mul.Tensor}.intersection(targets_of(graph))
    readers = [
        reader for node in graph.graph.find_nodes(op="call_function", target=A.conv2d.default) for reader in node.users
    ]
    assert len(readers) == 3
    assert A.cat.default not in {reader.target for reader in readers}


@pytest.mark.parametrize(
    "way", ["a part that no layer makes", "a part twice", "along the height", "a part with another reader"]
)
def test_norms_behind_other_concatenations_stay(way: str) -> None:
    torch.manual_seed(0)
    passes = fold_batch_norms, activate_before_concatenations
    graph, places = simplified(Branches(nn.ReLU(), way), torch.randn(1, 4, 7, 10), *passes)
    assert places == 0
    assert targets_of(graph).count(A.mul.Tensor) == 1


class ConcatenatedRows(nn.Module):
    """Linear layers of one input whose outputs are normalized together."""

    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(6, channels) for channels in (3, 5))
        self.norm = with_statistics(nn.BatchNorm1d(8))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(3).mT
        y: Tensor = torch.cat([linear(x) for linear in self.linears], -1)
        y = self.norm(y.flatten(0, 1)).reshape_as(y)
        return y.relu()


def test_a_norm_of_rows_behind_a_concatenation_is_folded() -> None:
    torch.manual_seed(0)
    graph, places = simplified(ConcatenatedRows(), torch.randn(1, 6, 3, 4), state_shapes, fold_batch_norms)
    assert places == 1
    assert A.mul.Tensor not in targets_of(graph)


def test_a_norm_over_the_image_itself_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False))
    graph, places = simplified(network, torch.randn(1, 3, 8, 8), fold_batch_norms)
    assert places == 0
    assert A.batch_norm.default in targets_of(graph)


class Written(nn.Module):
    """A batch norm next to a write that only torch's own functionalization can handle."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = with_statistics(nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x) * 2
        y[:, 0] += 1
        return y


def test_a_functional_batch_norm_is_one_again() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 4, 4)
    assert A._native_batch_norm_legit_no_training.default in targets_of(trace(Written(), image.shape))
    graph, places = simplified(Written(), image, restore_batch_norms)
    assert places == 1
    assert targets_of(graph).count(A.batch_norm.default) == 1
    assert A._native_batch_norm_legit_no_training.default not in targets_of(graph)
