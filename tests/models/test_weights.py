"""A large module on the mapped tensors of its checkpoint equals one into which they were copied."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from edgekit.config import runtimes
from edgekit.errors import WeightsError
from edgekit.models.checkpoint import build_fitted, read_checkpoint
from tests.helpers.refusals import refuses


class Net(nn.Module):
    """Has buffers outside and inside of the state dict, one of which the constructor computes."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)
        nn.init.ones_(self.first.weight)
        self.register_buffer("scale", torch.linspace(1, 2, 16), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.norm(self.first(x)) * self.scale)
        return logits


class Tied(Net):
    """Two layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.last.weight = self.first.weight


class Reading(Net):
    """The constructor reads values of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = float(self.first.weight.detach().sum())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.factor)


class Derived(Net):
    """A buffer outside of the state dict is computed from a parameter."""

    derived: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("derived", self.first.weight.detach().sum(0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.derived)


@pytest.fixture(autouse=True)
def all_networks_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 1)


def checkpoint(build: Callable[[], nn.Module], path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Write a checkpoint; returns the module with its values, which were copied into it."""
    torch.manual_seed(0)
    module = build()
    values = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in module.state_dict().items()
    }
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(values, path)
    else:
        torch.save(values, path)
    module.load_state_dict(values)
    return module


def in_file(module: nn.Module, path: Path) -> set[str]:
    """Names of the parameters whose values lie in pages of the file."""
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps if line[-1] == str(path)]
    return {name for name, p in module.named_parameters() if any(low <= p.data_ptr() < high for low, high in ranges)}


def same(one: nn.Module, other: nn.Module) -> bool:
    image = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(one.eval()(image), other.eval()(image))


def test_the_tensors_of_a_file_of_torch_are_the_parameters(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    expected = checkpoint(Net, path)
    module, own = build_fitted(Net, read_checkpoint(path), path)
    assert same(module, expected)
    assert own.state.keys() == expected.state_dict().keys()
    assert in_file(module, path) == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("weights.safetensors", torch.float32), ("half.pth", torch.float16)],
    ids=["safetensors", "half"],
)
def test_tensors_are_float32_and_aligned(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Kernels may add in another order where values are not aligned."""
    expected = checkpoint(Net, tmp_path / name, dtype)
    module, _ = build_fitted(Net, read_checkpoint(tmp_path / name), tmp_path / name)
    assert same(module, expected)
    assert all(p.dtype == torch.float32 and p.data_ptr() % 64 == 0 for p in module.parameters())


@pytest.mark.parametrize("build", [Tied, Reading, Derived])
def test_other_modules_get_copies(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    expected = checkpoint(build, path)
    torch.manual_seed(0)
    module, _ = build_fitted(build, read_checkpoint(path), path)
    assert same(module, expected)
    assert not in_file(module, path)
    assert len(list(module.parameters())) == len(list(expected.parameters()))


def test_small_modules_get_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is overwritten while they are in use must not change them."""
    monkeypatch.setattr(runtimes, "BUILT_APART_FROM", 10_000)
    path = tmp_path / "weights.pth"
    expected = checkpoint(Net, path)
    module, _ = build_fitted(Net, read_checkpoint(path), path)
    assert same(module, expected)
    assert not in_file(module, path)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    checkpoint(lambda: nn.Linear(16, 16), path)
    with refuses(WeightsError, "don't fit the model"):
        build_fitted(Net, read_checkpoint(path), path)
