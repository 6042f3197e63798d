"""Classifiers of transformers: logits, preprocessing and class names are transformers' own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from edgekit.config.recipes import Recipe
from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models.checkpoint import randomize
from edgekit.models.loading import build_meta, identify, load_network
from edgekit.models.module_source import name_of
from edgekit.models.options import ModelOptions
from edgekit.models.transformers_source import ImageNetwork
from tests.helpers.refusals import refuses

transformers = pytest.importorskip("transformers", reason="needs transformers")

LABELS = {"id2label": {"0": "cat", "1": "dog", "2": "eel"}, "label2id": {"cat": 0, "dog": 1, "eel": 2}}
VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 64}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONFIGS: dict[str, dict[str, Any]] = {
    "beit": VIT,
    "deit": VIT,
    "dinov2": {**VIT, "patch_size": 16},
    "swin": {"image_size": 64, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "regnet": {"embedding_size": 8, "groups_width": 8, **STAGES},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 64},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "vit": VIT,
    "resnet": {"embedding_size": 64, "layer_type": "basic", **STAGES},
}
NAME = "transformers:swin"
OF_VIT = {"image_processor_type": "ViTImageProcessor"}
QUICK = ("deit", "convnextv2", "vit")
"""Families that are always tested."""


def save(folder: Path, family: str, processor: Any = None) -> ImageNetwork:
    """Let transformers save a small network with random weights, and an image processor; return the network."""
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family], **LABELS)
    config.architectures = ["DeiTForImageClassification"] if family == "deit" else None  # of two that transformers has
    torch.manual_seed(0)
    model = ImageNetwork(transformers.AutoModelForImageClassification.from_config(config)).eval()
    randomize(model, (64, 64))
    own: Any = model.model
    own.save_pretrained(folder)
    processor = processor or transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in ("deit", "convnextv2", "vit") else pytest.mark.slow) for name in CONFIGS],
)
def test_the_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = save(tmp_path, family)
    network = load_network(ModelOptions(str(tmp_path)))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.module(images), model(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.traced(images), model(images), rtol=1e-4, atol=1e-5)
    assert (network.source, network.labels) == ("transformers", ("cat", "dog", "eel"))
    assert network.preprocessing.mean == (0.5, 0.5, 0.5)
    assert not [note.text for note in network.notes if note.doubtful]


@pytest.mark.parametrize(
    ("processor", "size", "crop_pct", "crop_mode", "interpolation"),
    [
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3}, 64, 0.875, "center", "bicubic"),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 3}, 384, 1.0, "squash", "bicubic"),
        ({"size": {"height": 64, "width": 64}, "resample": 2, **OF_VIT}, 64, 1.0, "squash", "bilinear"),
        ({"size": 64, "resample": 2, **OF_VIT}, 64, 1.0, "squash", "bilinear"),
        (
            {
                "size": {"shortest_edge": 80},
                "crop_size": {"height": 64, "width": 64},
                "do_center_crop": True,
                "resample": 3,
                "image_processor_type": "CLIPImageProcessor",
            },
            64,
            0.8,
            "center",
            "bicubic",
        ),
    ],
)
def test_the_preprocessing(
    processor: dict[str, Any], size: int, crop_pct: float, crop_mode: str, interpolation: str, tmp_path: Path
) -> None:
    save(tmp_path, "convnext")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    preprocessing = load_network(ModelOptions(str(tmp_path))).preprocessing
    assert (preprocessing.height, preprocessing.width) == (size, size)
    assert (preprocessing.crop_pct, preprocessing.crop_mode) == (crop_pct, crop_mode)
    assert preprocessing.interpolation == interpolation


def test_names_that_transformers_invents_are_no_names(tmp_path: Path) -> None:
    save(tmp_path, "convnext")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_network(ModelOptions(str(tmp_path))).labels == ("class_0", "class_1", "class_2")


@pytest.mark.parametrize(
    ("family", "name", "recipe"),
    [("convnextv2", "convnextv2_atto", "convnextv2"), ("vit", "vit_tiny_patch16_224", "vit")],
)
def test_a_folder_as_the_weights_of_timms_network_is_transformers_own(
    family: str, name: str, recipe: str, tmp_path: Path
) -> None:
    model = save(tmp_path, family)
    options = identify(ModelOptions(name, weights=str(tmp_path)))
    assert (options.name, Recipe.for_model(options.name).name) == (f"transformers:{family}", recipe)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load_network(options).module(images), model(images))


def test_a_processor_with_channels_in_the_other_order(tmp_path: Path) -> None:
    sizes = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
    model = save(tmp_path, "swin", transformers.MobileViTImageProcessor(**sizes))
    network = load_network(ModelOptions(str(tmp_path)))
    photo = Image.fromarray(np.full((80, 90, 3), (200, 100, 50), np.uint8))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    expected = model(processor(photo, return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(network.module(torch.from_numpy(network.preprocessing(photo))), expected)
    assert not [note.text for note in network.notes if note.doubtful]


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(size={"height": 64, "width": 64}),
        transformers.MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}),
    ],
)
def test_a_network_in_memory_has_the_preprocessing_and_the_recipe_of_its_folder(tmp_path: Path, processor: Any) -> None:
    save(tmp_path, "vit", processor)
    folder = load_network(ModelOptions(str(tmp_path)))
    own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    photo = Image.fromarray(np.full((80, 90, 3), (200, 100, 50), np.uint8))
    for transform in (None, processor):
        network = load_network(ModelOptions(name_of(own), module=own, transform=transform))
        assert (network.name, network.preprocessing) == (folder.name, folder.preprocessing)
        assert not [note.text for note in network.notes if note.doubtful]
        images = torch.from_numpy(network.preprocessing(photo))
        torch.testing.assert_close(network.module(images), folder.module(images))


def test_another_network_than_transformers_does_not_take_bgr() -> None:
    processor = transformers.MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64})
    with refuses(UsageError, "red and blue", "own"):
        load_network(ModelOptions("own", module=torch.nn.Conv2d(3, 4, 64), transform=processor))


def test_a_processor_that_can_not_be_repeated_is_a_warning(tmp_path: Path) -> None:
    save(tmp_path, "swin", transformers.ViTImageProcessor(size={"height": 64, "width": 64}, do_resize=False))
    (note,) = (note for note in load_network(ModelOptions(str(tmp_path))).notes if note.doubtful)
    assert "ViTImageProcessor" in note.text


def test_random_weights_and_plans_need_no_weights(tmp_path: Path) -> None:
    save(tmp_path, "swin")
    module, size = build_meta(ModelOptions(str(tmp_path)))
    assert size == (64, 64)
    assert all(parameter.is_meta for parameter in module.parameters())
    network = load_network(ModelOptions(str(tmp_path), weights="random"))
    assert (network.weights, network.classes) == ("random", 3)


def test_weights_that_transformers_would_make_up_are_refused(tmp_path: Path) -> None:
    save(tmp_path, "swin")
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del state["classifier.weight"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with refuses(WeightsError, "lacks weights of the network", "classifier.weight"):
        load_network(ModelOptions(str(tmp_path)))


@torch.no_grad()
@pytest.mark.parametrize("family", ["dinov2", "convnext"])
def test_a_network_without_a_head_returns_its_pooled_features(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **CONFIGS[family])).eval()
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    for options in (ModelOptions(str(tmp_path)), ModelOptions("own", module=model, imgsz=64)):
        network = load_network(options)
        assert (network.classes, network.has_classifier) == (32, False)
        torch.testing.assert_close(network.module(images), model(images).pooler_output)
        torch.testing.assert_close(network.traced(images), model(images).pooler_output, rtol=1e-4, atol=1e-5)


def test_a_network_for_texts_is_refused(tmp_path: Path) -> None:
    config = {name: value for name, value in VIT.items() if name != "image_size"}
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model("bert", **config)).save_pretrained(tmp_path)
    with refuses(ModelError, "BertModel takes input_ids"):
        load_network(ModelOptions(str(tmp_path)))


def test_mistakes(tmp_path: Path) -> None:
    save(tmp_path, "swin")
    with refuses(WeightsError, "'best.pth' is no folder", NAME):
        load_network(ModelOptions(str(tmp_path), weights="best.pth"))
    with refuses(WeightsError, f"'{NAME}' says nothing about weights", "save_pretrained"):
        load_network(ModelOptions(NAME))
    config = json.loads((tmp_path / "config.json").read_text())
    for change, error in (
        ({"architectures": ["SwinForMaskedImageModeling"]}, "of type 'swin' (SwinForMaskedImageModeling)"),
        ({"model_type": "unheard_of"}, "transformers can't build 'transformers:unheard_of'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with refuses(ModelError, error):
            load_network(ModelOptions(str(tmp_path)))
