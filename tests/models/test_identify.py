"""What a network's files say about it: architecture, classes, names and preprocessing, from scripts as people use."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from edgekit.errors import HubError, ModelError, WeightsError
from edgekit.models import checkpoint
from edgekit.models.loading import build_meta, identify, load_network
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from tests.helpers.refusals import refuses

CLASSES = 5
NAMES = ["e", "d", "c", "b", "a"]
SHAPE: dict[str, Any] = {"dims": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}
IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()


@pytest.fixture(scope="module")
def trained() -> Network:
    arguments = {**SHAPE, "num_classes": CLASSES}
    return load_network(ModelOptions("convnext_atto", weights="random", model_args=arguments, imgsz=32))


@pytest.fixture
def state(trained: Network) -> dict[str, Tensor]:
    return dict(trained.module.state_dict())


def load(path: Path, name: str = "convnext_atto", **options: Any) -> Network:
    chosen: dict[str, Any] = {"model_args": SHAPE, "imgsz": 32, **options}
    return load_network(ModelOptions(name, weights=str(path), **chosen))


def texts(network: Network) -> list[str]:
    return [note.text for note in network.notes]


def test_the_number_of_classes_comes_from_the_head(state: dict[str, Tensor], trained: Network, tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save(state, path)
    network = load(path)
    assert network.classes == CLASSES
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))
    assert texts(network) == ["classes: 5, from the classifier in 'best.pth'"]
    module, _ = build_meta(ModelOptions("convnext_atto", weights=str(path), model_args=SHAPE))
    assert module.get_parameter("head.fc.weight").shape == (CLASSES, 32)


def test_an_option_replaces_what_the_file_says(state: dict[str, Tensor], tmp_path: Path) -> None:
    settings = argparse.Namespace(model="convnext_atto", img_size=64, mean=[0.1, 0.2, 0.3], crop_pct=0.9)
    torch.save({"state_dict": state, "args": settings}, tmp_path / "best.pth")
    with pytest.raises(WeightsError, match=r"head.fc.weight: file .5, 32., model .7, 32."):
        load(tmp_path / "best.pth", model_args={**SHAPE, "num_classes": 7})
    network = load(tmp_path / "best.pth", mean=(0.5, 0.5, 0.5))
    assert network.preprocessing.width == 32
    assert network.preprocessing.mean == (0.5, 0.5, 0.5)
    assert network.preprocessing.crop_pct == 0.9
    assert "preprocessing: crop_pct 0.9, from 'args' in 'best.pth'" in texts(network)
    assert load(tmp_path / "best.pth", imgsz=None).preprocessing.width == 64


def test_identifying_twice_changes_nothing(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"arch": "convnext_atto", "state_dict": state, "args": {"img_size": 32}}, tmp_path / "best.pth")
    once = identify(ModelOptions(str(tmp_path / "best.pth"), model_args=SHAPE))
    assert identify(once) is once
    assert once.notes


def test_an_architecture_without_a_classifier_gets_that_of_the_file(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"depth": 1, "embed_dim": 192}
    module = timm.create_model("vit_small_patch14_dinov2", num_classes=3, img_size=28, **arguments)
    torch.save(module.state_dict(), tmp_path / "best.pth")
    assert load(tmp_path / "best.pth", "vit_small_patch14_dinov2", model_args=arguments, imgsz=28).classes == 3


def ema(state: dict[str, Tensor]) -> dict[str, Any]:
    """A file of torchvision's script: AveragedModel counts its updates and wraps the network."""
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in state.items()}}
    return {"model": {name: 0 * value for name, value in state.items()}, "model_ema": averaged}


def lightning(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Any]]:
    return lambda state: {
        "state_dict": {**{f"{prefix}{name}": value for name, value in state.items()}, "loss.weight": torch.ones(5)},
        "pytorch-lightning_version": "2.5",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
    }


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (ema, "weights: 'model_ema' in 'best.pth', the averaged (EMA) ones"),
        (lambda state: {"model_state_dict": state, "epoch": 3, "best": np.float64(0.5), "rng": np.zeros(3)}, ""),
        (lambda state: {"net": state, "folder": PurePosixPath("runs"), "here": Path("runs")}, ""),
        (lambda state: {"network": {"weights": state}}, ""),
        (lightning("model."), "tensors of 'best.pth' outside the network are unused: loss.weight. If your code"),
        (lightning("net.backbone."), "outside the network are unused: loss.weight"),
        (lightning("model._orig_mod.module."), "outside the network are unused: loss.weight"),
    ],
)
def test_files_of_training_scripts(
    wrap: Callable[[dict[str, Tensor]], Any], note: str, state: dict[str, Tensor], trained: Network, tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "best.pth")
    network = load(tmp_path / "best.pth")
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))
    assert note in "\n".join(texts(network))
    assert len(network.notes) == (2 if note else 1)


def test_a_classifier_beside_the_network_is_taken_if_only_it_fits(
    state: dict[str, Tensor], trained: Network, tmp_path: Path
) -> None:
    """As Lightning modules have that classify the features of a backbone without a classifier."""
    saved = {f"backbone.{name}": value for name, value in state.items() if "head.fc" not in name}
    saved |= {f"classifier.{name}": state[f"head.fc.{name}"] for name in ("weight", "bias")}
    torch.save({"state_dict": saved}, tmp_path / "best.ckpt")
    network = load(tmp_path / "best.ckpt")
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))
    assert "classifier: 'classifier.weight' in 'best.ckpt', which is taken as the network's last layer" in texts(
        network
    )
    torch.save({"state_dict": saved | {"other.weight": torch.zeros(2, 32)}}, tmp_path / "best.ckpt")
    with refuses(WeightsError, 2, "head.fc.weight, head.fc.bias"):
        load(tmp_path / "best.ckpt")


def test_hyperparameters_of_lightning_are_read_without_its_code(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("lightning.fabric.utilities.data")
    kind = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.AttributeDict = kind  # type: ignore[attr-defined]
    for name in ("lightning", "lightning.fabric", "lightning.fabric.utilities"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    settings = kind(model_name="timm/convnext_atto", class_names=NAMES)
    torch.save({"state_dict": state, "hyper_parameters": settings}, tmp_path / "best.ckpt")
    monkeypatch.undo()
    network = load_network(ModelOptions(str(tmp_path / "best.ckpt"), model_args=SHAPE, imgsz=32))
    assert (network.name, network.labels) == ("convnext_atto", tuple(NAMES))
    assert "architecture: convnext_atto, from 'hyper_parameters.model_name' in 'best.ckpt'" in texts(network)


def test_names_from_indices_are_in_the_order_of_the_outputs(state: dict[str, Tensor], tmp_path: Path) -> None:
    indices = {"cat": 3, "dog": 0, "eel": 4, "fox": 1, "gnu": 2}
    torch.save({"state_dict": state, "class_to_idx": indices}, tmp_path / "best.pth")
    assert load(tmp_path / "best.pth").labels == ("dog", "fox", "gnu", "cat", "eel")


def test_a_checkpoint_as_the_model(state: dict[str, Tensor], trained: Network, tmp_path: Path) -> None:
    settings = argparse.Namespace(model="convnext_atto", img_size=32, interpolation="bilinear")
    torch.save({"arch": "convnext_atto", "state_dict": state, "args": settings}, tmp_path / "best.pth")
    options = ModelOptions(str(tmp_path / "best.pth"), model_args=SHAPE)
    network = load_network(options)
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))
    assert (network.name, network.source, network.weights) == ("convnext_atto", "timm", str(tmp_path / "best.pth"))
    assert network.preprocessing.interpolation == "bilinear"
    assert texts(network)[0] == "architecture: convnext_atto, from 'arch' in 'best.pth'"
    assert (options.short_name, options.run_name) == ("best.pth", "best")


@pytest.mark.parametrize(("name", "nearest"), [("best.pth", "ARCHITECTURE"), ("resnet18.pth", "resnet18")])
def test_a_checkpoint_that_does_not_say_its_architecture_gets_the_whole_command(
    name: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is called like a network of timm is a file."""
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    torch.save({"model": timm.create_model("resnet18", num_classes=4).state_dict()}, path)
    with pytest.raises(ModelError) as caught:
        identify(ModelOptions(str(path)), ("deploy", str(path), "--data", "my photos"))
    assert caught.value.problem == f"'{path}' is a checkpoint that does not say which network it belongs to"
    assert caught.value.fix == f"Name the network: edgekit deploy {nearest} --weights {path} --data 'my photos'"


def test_a_missing_checkpoint_as_the_model() -> None:
    with refuses(ModelError, "'missing.pth'"):
        identify(ModelOptions("missing.pth"))


def test_an_architecture_that_nobody_knows_is_named(tmp_path: Path) -> None:
    torch.save({"arch": "our_net_v3", "state_dict": {"odd.weight": torch.zeros(1)}}, tmp_path / "best.pth")
    with refuses(ModelError, "'our_net_v3'", "'arch'", "'best.pth'", "module:factory"):
        load_network(ModelOptions(str(tmp_path / "best.pth")))


def save_timm(folder: Path, state: dict[str, Tensor]) -> None:
    module = timm.create_model("convnext_atto", num_classes=CLASSES, **SHAPE)
    module.load_state_dict(state)
    inputs = {"input_size": (3, 32, 32), "mean": (0.1, 0.2, 0.3), "crop_pct": 0.75, "crop_mode": "squash"}
    save_for_hf(
        module, str(folder), {"label_names": NAMES}, model_args=SHAPE, data_config=inputs, safe_serialization=True
    )


@pytest.mark.parametrize("as_model", [True, False])
def test_a_folder_of_timm(as_model: bool, state: dict[str, Tensor], trained: Network, tmp_path: Path) -> None:
    save_timm(tmp_path / "mine", state)
    folder = str(tmp_path / "mine")
    network = load_network(ModelOptions(folder) if as_model else ModelOptions("convnext_atto", weights=folder))
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))
    assert (network.labels, network.labels_origin, network.labels_file) == (tuple(NAMES), "label_names", "config.json")
    assert Path(network.weights).name == "model.safetensors"
    preprocessing = network.preprocessing
    assert (preprocessing.width, preprocessing.mean, preprocessing.crop_pct) == (32, (0.1, 0.2, 0.3), 0.75)
    assert preprocessing.crop_mode == "squash"


def test_weights_in_several_files(state: dict[str, Tensor], trained: Network, tmp_path: Path) -> None:
    save_timm(tmp_path, state)
    (tmp_path / "model.safetensors").unlink()
    parts = {"a.safetensors": dict(list(state.items())[:9]), "b.safetensors": dict(list(state.items())[9:])}
    index = {name: file for file, part in parts.items() for name in part}
    for file, part in parts.items():
        safetensors.torch.save_file(part, tmp_path / file)
    listed = str(index).replace("'", '"')
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {listed}}}')
    network = load_network(ModelOptions(str(tmp_path)))
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "no JSON object"),
        ("{", "can't read"),
        ('{"model_type": "swin"}', "describes a model of type 'swin'.*module:factory"),
        ('{"architecture": "convnext_atto"}', "contains no weights.*model.safetensors"),
    ],
)
def test_folders_that_can_not_be_read(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises((ModelError, WeightsError), match=message):
        load_network(ModelOptions(str(tmp_path)))


def test_a_repository_of_the_hub_is_a_folder_in_its_cache(
    state: dict[str, Tensor], trained: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_timm(tmp_path, state)
    cached = lambda repository, file, revision: str(tmp_path / file) if repository == "me/mine" else None  # noqa: E731
    monkeypatch.setattr(checkpoint, "try_to_load_from_cache", cached)
    network = load_network(ModelOptions("hf_hub:me/mine"))
    assert torch.equal(network.module(IMAGES), trained.module(IMAGES))
    assert (network.name, network.labels) == ("convnext_atto", tuple(NAMES))


def test_a_hub_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(checkpoint, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(checkpoint, "get_hf_file_metadata", fail)
    with refuses(HubError, "config.json", "me/mine", "OSError") as caught:
        load_network(ModelOptions("hf_hub:me/mine"))
    assert "model.safetensors" in caught.value.fix
    assert "`--weights FOLDER`" in caught.value.fix
