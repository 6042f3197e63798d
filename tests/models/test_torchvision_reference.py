"""torchvision's classifiers are built, loaded and preprocessed as torchvision does: all published weights, offline."""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_builder, get_model_weights

from edgekit.models.checkpoint import parameters_without_memory
from edgekit.models.loading import build_meta, load_network
from edgekit.models.network import classes_of_head, fit_weights, own_tensors
from edgekit.models.options import RESCALING, ModelOptions
from edgekit.models.torchvision_source import present_names, side_of_positions, torchvision_models
from edgekit.models.transforms import InputOptions, resolve_preprocessing
from tests.helpers.tiny import levels_apart

ENTRIES = [(model, entry) for model in torchvision_models() for entry in get_model_weights(model)]
# Those that differ in how they are built or loaded, and one of the others; the rest of `SMALLEST` runs in CI.
DIFFERENT = ("densenet121", "googlenet", "inception_v3", "mnasnet0_5", "regnet_x_400mf", "squeezenet1_1", "vit_b_16")
SMALL_FIRST = sorted(torchvision_models(), key=lambda model: next(iter(get_model_weights(model))).meta["num_params"])
SMALLEST = {
    (get_model_builder(each).__module__, *get_model_weights(each).__members__): each for each in reversed(SMALL_FIRST)
}
"""The smallest model of each file and kind of weights: the others there differ in depth and width alone."""
MODELS = [
    *DIFFERENT,
    *(pytest.param(each, marks=pytest.mark.slow) for each in sorted({*SMALLEST.values()} - {*DIFFERENT})),
]
AUXILIARY = ("AuxLogits", "aux1", "aux2", "aux_logits")
pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization", "ignore:A new version of MNASNet")


@pytest.fixture
def photos_of_both_shapes() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 151, 206, 3), dtype=np.uint8)
    return [Image.fromarray(pixels[0]), Image.fromarray(pixels[1]).transpose(Image.Transpose.ROTATE_90)]


def flags(module: nn.Module) -> dict[str, object]:
    """The class and the plain attributes of every part but the auxiliary classifiers, which inference doesn't use."""
    return {
        f"{name}.{key}": value
        for name, part in module.named_modules()
        for key, value in [("class", type(part)), *vars(part).items()]
        if not key.startswith("_") and not isinstance(value, torch.Tensor | dict | list) and not callable(value)
        if not f"{name}.{key}".lstrip(".").startswith(AUXILIARY)
    } | {f"{name}.class": type(part) for name, part in module.named_modules() if not name.startswith(AUXILIARY)}


def without_memory(model: str, **arguments: Any) -> nn.Module:
    with parameters_without_memory():
        module: nn.Module = get_model(model, **arguments)
    return module


def published(monkeypatch: pytest.MonkeyPatch, model: str, entry: WeightsEnum, state: Any) -> nn.Module:
    """torchvision's own model with published weights, for which it gets `state` in place of a download."""
    with monkeypatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
        module: nn.Module = get_model(model, weights=entry).eval()
    return module


def test_the_preprocessing_of_all_published_weights(
    monkeypatch: pytest.MonkeyPatch, photos_of_both_shapes: list[Image.Image]
) -> None:
    monkeypatch.setattr("torchvision.models.get_model", lambda *_, **__: nn.Linear(1, 1))
    compared = set()
    for model, entry in ENTRIES:
        module, size = build_meta(ModelOptions(f"torchvision:{model}.{entry.name}"))
        preprocessing, own = resolve_preprocessing(module, InputOptions(), 3), entry.transforms()
        assert (preprocessing.mean, preprocessing.std) == (tuple(own.mean), tuple(own.std))
        assert preprocessing.interpolation == own.interpolation.value
        assert (*size, preprocessing.crop_mode) == (*own.crop_size * 2, "center")
        if preprocessing not in compared:
            for photo in photos_of_both_shapes:
                assert levels_apart(preprocessing, photo, own(photo).numpy()) <= 2
        compared.add(preprocessing)
    assert (len(ENTRIES), len(compared)) >= (115, 20)


@pytest.mark.parametrize("model", MODELS)
def test_the_flags_of_published_weights(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: {})
    sizes = set()
    for entry in get_model_weights(model):
        if entry.transforms().crop_size[0] in sizes and "SWAG" not in entry.name:
            continue
        sizes.add(entry.transforms().crop_size[0])
        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
            expected = without_memory(model, weights=entry).eval()
        module, _ = build_meta(ModelOptions(f"torchvision:{model}.{entry.name}"))
        assert flags(module) == flags(expected)


@pytest.mark.parametrize("model", MODELS)
def test_what_every_constructor_saves_is_loaded(model: str) -> None:
    saved = without_memory(model, weights=None, num_classes=7).state_dict()
    path, rename = Path(f"{model}.pth"), present_names(model)
    side = side_of_positions(f"torchvision:{model}", saved)
    module, _ = build_meta(ModelOptions(f"torchvision:{model}", imgsz=side))
    assert classes_of_head(own_tensors(saved, module, path, rename).state, module) == 7
    module, _ = build_meta(ModelOptions(f"torchvision:{model}", imgsz=side, model_args={"num_classes": 7}))
    fit_weights(module, saved, path, rename, assign=True)
    wrapped = {f"module.{name}": value for name, value in saved.items()}
    fit_weights(module, wrapped, path, rename, assign=True)


@pytest.fixture(
    params=[
        "densenet121",
        "googlenet",
        "mnasnet0_5",
        pytest.param("inception_v3", marks=pytest.mark.slow),
        pytest.param("vit_b_16", marks=pytest.mark.slow),
    ]
)
def published_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A torchvision model, and a file with random weights in the layout of its published file."""
    model: str = request.param
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"init_weights": False} if model in RESCALING else {}
    state = get_model(model, weights=None, **arguments).state_dict()
    if model == "densenet121":
        names = {name: re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", name) for name in state}
        state = {new: state[name] for name, new in names.items() if not name.endswith("num_batches_tracked")}
    if model == "vit_b_16":
        state = {re.sub(r"mlp\.([03])\.", _linear, name): value for name, value in state.items()}
    torch.save(state, tmp_path / "published.pth")
    return model, tmp_path / "published.pth"


def _linear(match: re.Match[str]) -> str:
    return f"mlp.linear_{1 if match[1] == '0' else 2}."


@torch.no_grad()
def test_published_files_give_torchvisions_own_logits(
    monkeypatch: pytest.MonkeyPatch, published_file: tuple[str, Path]
) -> None:
    model, path = published_file
    expected = published(monkeypatch, model, get_model_weights(model).DEFAULT, torch.load(path))
    size = None if model == "vit_b_16" else 96
    network = load_network(ModelOptions(f"torchvision:{model}", weights=str(path), imgsz=size))
    images = torch.randn(network.preprocessing.input_shape)
    assert torch.equal(network.module(images), expected(images))
    assert [note.text for note in network.notes if "transform_input=True" in note.text] or model not in RESCALING
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: torch.load(path))
    downloaded = load_network(ModelOptions(f"torchvision:{model}", imgsz=size))
    assert torch.equal(downloaded.module(images), expected(images))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_modules_with_versions(tmp_path: Path, suffix: str) -> None:
    """MNASNet refuses a state dict without its version, which .safetensors has no place for."""
    saved = get_model("mnasnet0_5", weights=None, num_classes=3).eval()
    path = tmp_path / f"fine{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": nn.DataParallel(saved).state_dict()}, path)
    else:
        save_file(saved.state_dict(), path)
    network = load_network(ModelOptions("torchvision:mnasnet0_5", weights=str(path)))
    images = torch.randn(1, 3, 64, 64)
    assert network.classes == 3
    assert torch.equal(network.module(images), saved(images))


def test_the_layout_that_a_version_stands_for(tmp_path: Path) -> None:
    """The first version of MNASNet had another stem."""
    first = get_model("mnasnet0_5", weights=None)
    state = first.state_dict()
    state._metadata[""]["version"] = 1
    with pytest.raises(RuntimeError, match="size mismatch"):  # after it has changed the stem
        first.load_state_dict(state)
    first.eval()
    torch.save(first.state_dict(), tmp_path / "first.pth")
    network = load_network(ModelOptions("torchvision:mnasnet0_5", weights=str(tmp_path / "first.pth")))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(network.module(images), first(images))


@pytest.mark.slow
def test_a_vit_trained_at_another_size(tmp_path: Path) -> None:
    saved = get_model("vit_b_32", weights=None, num_classes=3, image_size=64).eval()
    torch.save({f"module.{name}": value for name, value in saved.state_dict().items()}, tmp_path / "small.pth")
    network = load_network(ModelOptions("torchvision:vit_b_32", weights=str(tmp_path / "small.pth")))
    assert (network.preprocessing.height, network.classes) == (64, 3)
    assert "input: 64x64, from the positions in 'small.pth'" in [note.text for note in network.notes]


@pytest.mark.parametrize(("weights", "rescales"), [("IMAGENET1K_V1", True), (None, False)])
def test_a_checkpoint_of_its_script_says_whether_it_began_with_published_weights(
    tmp_path: Path, weights: str | None, rescales: bool
) -> None:
    trained = get_model("googlenet", weights=None, num_classes=3, init_weights=False).eval()
    settings = argparse.Namespace(model="googlenet", val_crop_size=64, val_resize_size=80, weights=weights)
    torch.save({"model": trained.state_dict(), "args": settings}, tmp_path / "best.pth")
    network = load_network(ModelOptions(str(tmp_path / "best.pth")))
    assert network.classes == 3
    assert bool(network.module.transform_input) == rescales
