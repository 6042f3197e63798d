"""open_clip's published weights get open_clip's own activation, preprocessing and loading: all pairs, offline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgekit.errors import HubError, WeightsError
from edgekit.models import open_clip_source
from edgekit.models.loading import build_meta, load_network
from edgekit.models.options import ModelOptions
from edgekit.models.transforms import InputOptions, resolve_preprocessing
from tests.helpers.refusals import refuses
from tests.helpers.tiny import levels_apart

TINY = "tiny_of_tests"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
LABELS = ("cat", "dog", "toaster")
Arguments = tuple[Any, ...]


@pytest.fixture
def open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with a small model that has published weights: with QuickGELU, squashed, and of other means."""
    library = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    (tmp_path / f"{TINY}.json").write_text(json.dumps(CONFIG))
    library.add_model_config(tmp_path)
    torch.manual_seed(0)
    weights = tmp_path / "published.pt"
    torch.save(library.create_model(TINY).state_dict(), weights)
    kinds = {"quick_gelu": True, "resize_mode": "squash", "mean": (0.5, 0.4, 0.3), "interpolation": "bilinear"}
    hub = f"{tmp_path}/"
    tags = {"quick": {"hf_hub": hub, "file": str(weights), **kinds}, "plain": {"hf_hub": hub, "file": str(weights)}}
    monkeypatch.setitem(library.pretrained._PRETRAINED, TINY, tags)
    monkeypatch.setattr(open_clip_source, "fetch", lambda *_: weights)
    return library


class Tower(nn.Module):
    """A tower in place of the one that these arguments would build."""

    def __init__(self, arguments: Arguments, size: Any = None) -> None:
        super().__init__()
        self.arguments, self.image_size = arguments, size

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name in ("attn_pool", "set_input_size"):
                raise
            return None


@pytest.fixture
def towers(monkeypatch: pytest.MonkeyPatch, open_clip: Any) -> None:
    """Towers that record the arguments they are built with, and no downloads."""

    def vision(embed_dim: int, vision_cfg: Any, quick_gelu: bool = False, cast_dtype: object = None) -> nn.Module:
        config = open_clip.CLIPVisionCfg(**vision_cfg) if isinstance(vision_cfg, dict) else vision_cfg
        return Tower((embed_dim, config, bool(quick_gelu)), config.image_size)

    for module in (open_clip.model, open_clip.coca_model):
        monkeypatch.setattr(module, "_build_vision_tower", vision)
        monkeypatch.setattr(module, "_build_text_tower", lambda *arguments, **_: Tower(arguments))
    monkeypatch.setattr(open_clip.coca_model, "_build_text_decoder_tower", lambda *arguments, **_: Tower(arguments))
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: "")


@pytest.mark.filterwarnings("ignore:QuickGELU mismatch")  # one pair's configuration has it, its entry doesn't
def test_all_published_pairs(open_clip: Any, towers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip_source, "deployable", lambda module: module)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))
    compared = set()
    pairs = open_clip.list_pretrained()
    for model, tag in pairs:
        quick = bool(open_clip.pretrained.get_pretrained_cfg(model, tag).get("quick_gelu"))
        expected, _, transform = open_clip.create_model_and_transforms(model, tag, force_quick_gelu=quick)
        module: Any = build_meta(ModelOptions(f"open_clip:{model}.{tag}"))[0]
        assert module.visual.arguments == expected.visual.arguments, (model, tag)
        preprocessing = resolve_preprocessing(module, InputOptions(), 3)
        kind = (preprocessing.mean, preprocessing.std, preprocessing.interpolation, preprocessing.crop_mode)
        own = expected.visual.preprocess_cfg
        assert kind[:3] == (tuple(own["mean"]), tuple(own["std"]), own["interpolation"])
        assert kind[3] == {"shortest": "center", "squash": "squash"}[own["resize_mode"]]
        assert (preprocessing.width, preprocessing.height, preprocessing.crop_pct) == (own["size"], own["size"], 1)
        if kind not in compared:
            assert levels_apart(preprocessing, photo, transform(photo).numpy()) <= 1
        compared.add(kind)
    assert len(pairs) >= 196
    assert len(compared) >= 8


@torch.no_grad()
@pytest.mark.parametrize("tag", ["quick", "plain"])
def test_published_weights_give_open_clips_own_logits(open_clip: Any, tmp_path: Path, tag: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    expected, _, transform = open_clip.create_model_and_transforms(TINY, tag, force_quick_gelu=tag == "quick")
    network = load_network(ModelOptions(f"open_clip:{TINY}.{tag}", labels=labels))
    assert network.weights == tag
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    images = transform(photo)[None]
    np.testing.assert_allclose(network.preprocessing(photo), images.numpy(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network.module(images), zero_shot(open_clip, expected, images), rtol=1e-4, atol=1e-5)


def zero_shot(library: Any, model: Any, images: Tensor) -> Tensor:
    rows = library.build_zero_shot_classifier(
        model.eval(), library.get_tokenizer(TINY), LABELS, library.SIMPLE_IMAGENET_TEMPLATES
    )
    logits: Tensor = model.logit_scale.exp() * model.encode_image(images, normalize=True) @ rows
    return logits


@torch.no_grad()
def test_another_size_resizes_the_positions_as_open_clip_does(open_clip: Any, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    expected = open_clip.create_model(TINY, "plain", force_image_size=48)
    network = load_network(ModelOptions(f"open_clip:{TINY}.plain", labels=labels, imgsz=48))
    images = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(network.module(images), zero_shot(open_clip, expected, images), rtol=1e-4, atol=1e-5)


def test_a_file_is_built_as_its_tag_says(open_clip: Any, tmp_path: Path) -> None:
    tower = {f"visual.{k}": v for k, v in open_clip.create_model(TINY).visual.state_dict().items()}
    torch.save({**tower, "head.weight": torch.randn(5, 32), "head.bias": torch.randn(5)}, tmp_path / "fine.pth")
    networks = {
        tag: load_network(ModelOptions(f"open_clip:{TINY}{tag}", weights=str(tmp_path / "fine.pth")))
        for tag in ("", ".plain", ".quick")
    }
    quick = {
        tag: any(type(part).__name__ == "QuickGELU" for part in network.module.modules())
        for tag, network in networks.items()
    }
    assert quick == {"": False, ".plain": False, ".quick": True}
    modes = {tag: network.preprocessing.crop_mode for tag, network in networks.items()}
    assert modes == {"": "squash", ".plain": "center", ".quick": "squash"}
    doubts = {tag: [note.text for note in network.notes if note.doubtful] for tag, network in networks.items()}
    assert doubts[".plain"] == doubts[".quick"] == []
    assert f"open_clip:{TINY}.plain" in doubts[""][0]


def test_a_wrong_tag_is_refused_for_files_too(open_clip: Any) -> None:
    for weights in (None, "random", "fine.pth"):
        with pytest.raises(WeightsError, match=f"no weights 'slow' for 'open_clip:{TINY}'.*{TINY}.quick"):
            load_network(ModelOptions(f"open_clip:{TINY}.slow", weights=weights))


def test_a_text_tower_that_can_not_be_downloaded(open_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    with refuses(HubError, f"tokenizer of 'open_clip:{TINY}'"):
        load_network(ModelOptions(f"open_clip:{TINY}"))
