"""What the same command reuses in the same run folder after the user's code was edited, end to end."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.report import load_report
from edgekit.report.document import Report
from tests.helpers import fake_runtime

NETWORK = """
import torch
from torch import nn
from own_head import pooled

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 16, 5, stride=4), nn.Linear(16, 10)
    def forward(self, x):
        return self.fc(pooled(self.conv(x).relu()))
"""
HEAD = "def pooled(x): return x.mean((2, 3)) * 20\n"
OTHER_FORWARD = NETWORK.replace("self.fc(", "-self.fc(")
OTHER_HEAD = HEAD.replace("* 20", "* -20")
BUNDLES = {"fake-float", "fake-int8"}


@pytest.fixture
def deploy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[Report, str]]]:
    """A function that deploys a factory with these sources, as a new process would. The report, and the progress."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files that change within a second look the same to Python
    counts = ["--num-calibration-samples", "10", "--num-eval-samples", "30", "--iterations", "1", "--warmup", "0"]
    gates = ["--min-speedup", "0", "--max-drop", "100", "--threads", "1"]
    job = ["own_net:Net", "--imgsz", "32", "--data", str(photos), "--target", "fake", "-o", "run", *counts, *gates]

    def run(network: str = NETWORK, head: str = HEAD, *more: str) -> tuple[Report, str]:
        Path("own_net.py").write_text(network)
        Path("own_head.py").write_text(head)
        for name in ("own_net", "own_head"):
            sys.modules.pop(name, None)
        capfd.readouterr()
        assert main(["deploy", *job, *more]) == 1, "nothing is concluded from a network that guesses"
        report = load_report(tmp_path / "run")
        assert [row.verdict for row in report.results] == ["inconclusive"] * 2
        return report, capfd.readouterr().err

    with fake_runtime.added():
        yield run


def made(progress: str) -> set[str]:
    """What the command made anew: bundles, and torch's predictions."""
    lines = progress.splitlines()
    bundles = {name for name in BUNDLES if any(line.startswith(f"{name}: differs from torch") for line in lines)}
    return bundles | {"reference" for line in lines if line.startswith("evaluate torch:")}


def test_nothing_changed(deploy: Callable[..., tuple[Report, str]]) -> None:
    assert made(deploy()[1]) == {*BUNDLES, "reference"}
    assert made(deploy(f"{NETWORK}# a comment\n")[1]) == set()


@pytest.mark.parametrize("edited", [(OTHER_FORWARD, HEAD), (NETWORK, OTHER_HEAD)], ids=["forward", "helper"])
def test_an_edited_network_is_compared_with_itself(
    deploy: Callable[..., tuple[Report, str]], edited: tuple[str, str]
) -> None:
    """Its weights and its modules are the same as before, and it answers almost every image differently."""
    before, _ = deploy()
    after, progress = deploy(*edited)
    assert made(progress) == {*BUNDLES, "reference"}
    assert after.model.weights_sha256 == before.model.weights_sha256
    float_, _ = after.results
    assert float_.accuracy is not None
    assert float_.accuracy.agreement == 1.0
    assert after.reference != before.reference
