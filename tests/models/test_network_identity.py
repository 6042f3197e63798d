"""The identity of a network changes with everything that it computes, and with nothing else."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.compiler.graph import trace
from edgekit.errors import ModelError
from edgekit.models.loading import load_network
from edgekit.models.network import Network, graph_sha256
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses

SHAPE = (1, 3, 8, 8)
NETWORK = """
import torch
from torch import nn
from own_helper import squash

OFFSETS = torch.tensor([1.0, 2.0, 3.0])

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("gain", torch.full((4,), 2.0), persistent=False)
        self.slope = 0.5
    def forward(self, x):
        y = self.conv(x + OFFSETS.view(1, 3, 1, 1)).mean((2, 3))
        return squash(y * self.gain) * self.slope + torch.tensor([0.0, 0.1, 0.2, 0.3])

def build():
    return Net()
"""
HELPER = "import torch\ndef squash(x): return torch.tanh(x)\n"
EDITS = {
    "the forward": (NETWORK.replace("mean((2, 3))", "amax((2, 3))"), HELPER),
    "a helper in another file": (NETWORK, HELPER.replace("tanh", "sigmoid")),
    "a constant outside of the class": (NETWORK.replace("3.0])", "4.0])"), HELPER),
    "a constant in forward": (NETWORK.replace("0.3])", "0.4])"), HELPER),
    "a buffer that is no weight": (NETWORK.replace("2.0)", "2.5)"), HELPER),
    "a number": (NETWORK.replace("slope = 0.5", "slope = 0.25"), HELPER),
}


def loaded(folder: Path, network: str, helper: str) -> Network:
    """The network of these sources, as a new process would load it from `folder`, the current folder."""
    (folder / "own_network.py").write_text(network)
    (folder / "own_helper.py").write_text(helper)
    for name in ("own_network", "own_helper"):
        sys.modules.pop(name, None)
    return load_network(ModelOptions("own_network:build", imgsz=8))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files that change within a second look the same to Python
    return tmp_path


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_identity_and_not_the_weights(folder: Path, edit: str) -> None:
    before, after = loaded(folder, NETWORK, HELPER), loaded(folder, *EDITS[edit])
    assert after.weights_sha256 == before.weights_sha256
    assert after.graph_sha256 != before.graph_sha256
    assert after.identity != before.identity


def test_an_edit_that_computes_the_same_changes_nothing(folder: Path) -> None:
    before = loaded(folder, NETWORK, HELPER)
    documented = NETWORK.replace("def forward", "# A comment.\n    def unused(self): pass\n    def forward")
    assert loaded(folder, documented, f"import os\n{HELPER}").identity == before.identity


def test_another_process_sees_the_same_identity(folder: Path) -> None:
    network = loaded(folder, NETWORK, HELPER)
    code = (
        "from edgekit.models.loading import load_network; from edgekit.models.options import ModelOptions; "
        "print(load_network(ModelOptions('own_network:build', imgsz=8)).graph_sha256)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout.split()[-1] == network.graph_sha256


def test_weights_and_types_count(tiny_network: nn.Module) -> None:
    hashes = [graph_sha256(trace(nn.Linear(4, 4), (1, 4)))]
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    hashes += [graph_sha256(trace(layer, (1, 4)))]
    layer.bias = None  # type: ignore[assignment]
    hashes += [graph_sha256(trace(layer, (1, 4)))]
    assert len(set(hashes)) == 3


def test_a_network_in_bfloat16_has_one() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.ones(3, dtype=torch.bfloat16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.get_buffer("factor").float()

    graph = trace(Half(), (1, 3))
    assert graph_sha256(graph) == graph_sha256(trace(Half(), (1, 3)))


def test_a_pickled_network_keeps_the_hash_and_leaves_the_graph(tiny_convnext: Network) -> None:
    copied: Network = pickle.loads(pickle.dumps(tiny_convnext))
    assert "traced" not in vars(copied)
    assert vars(copied)["graph_sha256"] == tiny_convnext.graph_sha256
    assert copied.identity == tiny_convnext.identity


def test_a_network_with_another_module_is_traced_again(tiny_convnext: Network) -> None:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    assert replace(tiny_convnext, module=pooled).graph_sha256 != tiny_convnext.graph_sha256


def test_a_network_that_cannot_be_traced_is_an_error_of_the_model(tiny_convnext: Network) -> None:
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with refuses(ModelError, "torch.export", "'convnextv2_atto'"):
        _ = replace(tiny_convnext, module=Undecided()).graph_sha256
