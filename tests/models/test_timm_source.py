"""timm's networks are built as timm builds them with published weights."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from edgekit.models.loading import load_network
from edgekit.models.options import ModelOptions


def epsilons(module: nn.Module) -> set[float]:
    return {part.eps for part in module.modules() if isinstance(part, nn.BatchNorm2d)}


def test_flags_that_timm_sets_for_published_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
        published = timm.create_model("fbnetc_100", pretrained=True, num_classes=3)
    torch.save(published.state_dict(), tmp_path / "fine.pth")
    network = load_network(ModelOptions("fbnetc_100", weights=str(tmp_path / "fine.pth"), imgsz=64))
    assert epsilons(network.module) == epsilons(published) == {1e-3}


def test_which_models_of_timm_have_such_flags() -> None:
    """iFormer only allows a class in its file; the registry's and the builder's own code load or list weights."""
    folder = Path(timm.models.__file__).parent
    conditional = re.compile(r"\bif (?:not )?pretrained\b|\bpretrained (?:and|or|else)\b")
    files = {path.name for path in folder.glob("*.py") if conditional.search(path.read_text())}
    assert files == {"_builder.py", "_registry.py", "efficientnet.py", "iformer.py"}
