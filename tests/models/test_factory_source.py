"""Models named `module:factory`, with modules in the current folder."""

import sys
from pathlib import Path

import pytest
import torch

from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.loading import build_meta, load_network
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses

CODE = """
import torch
from torch import nn

class Classifier(nn.Module):
    def __init__(self, classes=5, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))

class Group:
    build = Classifier

def half(): return Classifier().half().train()
def features(): return nn.Conv2d(3, 4, 3)
def nothing(): return 3
def broken(): raise KeyError("lost")
def leaving(): raise SystemExit(0)
def two(): return Two()
def empty(): return nn.Sequential()

class Two(Classifier):
    def forward(self, x):
        return super().forward(x), x

class Nan(Classifier):
    def forward(self, x):
        return super().forward(x) / 0 * 0

instance = Classifier()
number = 3
"""
OWN_TENSORS = """
import torch
from torch import nn

MEAN = torch.tensor([0.4, 0.5, 0.6])
CENTRES = torch.eye(5, 3)

class Nearest(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)
        self.head.weight.data = CENTRES
        self.scale = float(CENTRES.sum())
        self.register_buffer("mean", MEAN)
    def forward(self, x):
        return self.head(x.mean((2, 3)) - self.mean) * self.scale
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that contains the module `own_models`."""
    (tmp_path / "own_models.py").write_text(CODE)
    (tmp_path / "own_tensors.py").write_text(OWN_TENSORS)
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)")
    (tmp_path / "needs.py").write_text("import a_package_that_is_missing")
    monkeypatch.chdir(tmp_path)
    for name in ("own_models", "own_tensors", "leaves", "needs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_factory_sets_the_weights_and_the_options_apply(folder: Path) -> None:
    (folder / "labels.txt").write_text("a\nb\nc\n")
    before = list(sys.path)
    network = load_network(
        ModelOptions(
            "own_models:Classifier",
            model_args={"classes": 3},
            imgsz=16,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            interpolation="bilinear",
            crop_pct=0.9,
            labels=Path("labels.txt"),
        )
    )
    assert (network.source, network.weights, network.classes) == ("factory", "factory", 3)
    assert network.labels == ("a", "b", "c")
    assert network.preprocessing.interpolation == "bilinear"
    assert network.preprocessing.mean == (0.0, 0.0, 0.0)
    assert network.preprocessing.crop_pct == 0.9
    assert network.preprocessing.height == network.preprocessing.width == 16
    assert sys.path == before


def test_a_factory_is_seeded_and_made_float32_in_eval_mode() -> None:
    first, again, other = (load_network(ModelOptions("own_models:half", imgsz=16), seed=seed) for seed in (0, 0, 1))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert not first.module.training
    assert first.module.get_parameter("head.weight").dtype == torch.float32
    assert load_network(ModelOptions("own_models:Group.build")).preprocessing.height == 224


def test_a_checkpoint_file_replaces_the_weights(folder: Path) -> None:
    trained = load_network(ModelOptions("own_models:Classifier", imgsz=16), seed=1).module
    torch.save({"model": trained.state_dict()}, "trained.pth")
    network = load_network(ModelOptions("own_models:Classifier", weights="trained.pth", imgsz=16))
    assert torch.equal(network.module.get_parameter("head.weight"), trained.get_parameter("head.weight"))
    assert network.weights == "trained.pth"
    with refuses(WeightsError, "conv.weight", [4, 3, 3, 3], [6, 3, 3, 3]):
        load_network(ModelOptions("own_models:Classifier", weights="trained.pth", imgsz=16, model_args={"width": 6}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_modles:build", "can't import 'own_modles'.*in the module's folder"),
        ("own_models:build", r"own_models.py\) has no 'build'"),
        ("own_models:", "neither a timm name nor module:factory"),
        ("some/pa-th:x", "neither a timm name nor module:factory"),
        ("needs:x", "can't import 'needs'.*a_package_that_is_missing"),
        ("leaves:x", "can't import 'leaves'.*SystemExit"),
        ("own_models:number", "is a int.*a function or class"),
        ("own_models:instance", "is a Classifier.*a function or class"),
        ("own_models:nothing", "returned a int.*a torch.nn.Module"),
        ("own_models:broken", "failed when called with .*KeyError: 'lost'"),
        ("own_models:leaving", "failed when called with .*SystemExit"),
        ("own_models:features", r"returns shape \[1, 4, 14, 14\]"),
        ("own_models:empty", r"returns shape \[1, 3, 16, 16\]"),
        ("own_models:two", "returns a tuple.*logits"),
    ],
)
def test_names_that_give_no_classifier_are_model_errors(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_network(ModelOptions(name, imgsz=16))


def test_wrong_arguments_are_a_model_error() -> None:
    with refuses(ModelError, "depth", "`--model-args`"):
        load_network(ModelOptions("own_models:Classifier", model_args={"depth": 3}, imgsz=16))


def test_random_weights_are_not_for_factories() -> None:
    with refuses(UsageError, "--weights"):
        load_network(ModelOptions("own_models:Classifier", weights="random"))


def test_logits_that_are_not_finite_are_a_weights_error() -> None:
    with pytest.raises(WeightsError):
        load_network(ModelOptions("own_models:Nan", imgsz=16))


def test_a_module_with_tensors_that_a_network_needs_is_planned_and_loaded() -> None:
    options = ModelOptions("own_tensors:Nearest", imgsz=32)
    planned, _ = build_meta(options)
    assert all(tensor.is_meta for tensor in planned.state_dict().values())
    network = load_network(options)
    assert torch.equal(network.module.state_dict()["head.weight"], torch.eye(5, 3))
    assert torch.equal(network.module.state_dict()["mean"], torch.tensor([0.4, 0.5, 0.6]))
