"""open_clip's image towers: logits equal to those of open_clip's code, heads from class names or files, and errors."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from edgekit.cli.main import main
from edgekit.compiler.layers import layers
from edgekit.errors import ModelError, UsageError, WeightsError
from edgekit.models import open_clip_source
from edgekit.models.loading import load_network
from edgekit.models.options import ModelOptions
from tests.helpers.graphs import export_graph

NAME = "coca_tiny_of_tests"
TEXT = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32,
        "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True,
    },
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT | {"attn_pooler_heads": 4},
    "custom_text": True,
}  # fmt: skip
LABELS = ("cat", "dog", "toaster")


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The library, with the configuration of a CoCa that is small enough for tests."""
    library = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    library.add_model_config(folder)
    return library


@pytest.fixture(scope="module")
def both_towers(open_clip: Any) -> Any:
    torch.manual_seed(0)
    return open_clip.create_model(NAME, pretrained=None, load_weights=False).eval()


@pytest.fixture(scope="module")
def checkpoint(both_towers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "both.safetensors"
    save_file({name: value.contiguous() for name, value in both_towers.state_dict().items()}, path)
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path


@torch.no_grad()
def test_a_zero_shot_head_gives_open_clips_own_logits(
    open_clip: Any, both_towers: Any, checkpoint: Path, labels: Path
) -> None:
    network = load_network(ModelOptions(f"open_clip:{NAME}", weights=str(checkpoint), labels=labels))
    assert (network.source, network.classes, network.labels) == ("open_clip", 3, LABELS)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    rows = open_clip.build_zero_shot_classifier(
        both_towers, open_clip.get_tokenizer(NAME), LABELS, open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    expected = both_towers.logit_scale.exp() * both_towers.encode_image(images, normalize=True) @ rows
    torch.testing.assert_close(network.module(images), expected, rtol=1e-4, atol=1e-5)
    assert not any("text" in name for name in network.module.state_dict())


@torch.no_grad()
def test_a_checkpoints_own_head_is_used(both_towers: Any, tmp_path: Path) -> None:
    tower = {f"visual.{name}": v.contiguous() for name, v in both_towers.visual.state_dict().items()}
    head = {"head.weight": torch.randn(5, 32), "head.bias": torch.randn(5)}
    save_file(tower | head, tmp_path / "fine.safetensors")
    network = load_network(ModelOptions(f"open_clip:{NAME}", weights=str(tmp_path / "fine.safetensors")))
    images = torch.randn(2, 3, 32, 32)
    features = F.normalize(both_towers.visual(images)[0], dim=-1)
    expected = F.linear(features, head["head.weight"], head["head.bias"])
    torch.testing.assert_close(network.module(images), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"headless": True}, {"model_args": {"num_classes": 0}}])
def test_the_tower_alone_embeds(both_towers: Any, checkpoint: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    images = torch.randn(2, 3, 32, 32)
    tower = {f"visual.{name}": v.contiguous() for name, v in both_towers.visual.state_dict().items()}
    save_file(tower | {"head.weight": torch.randn(5, 32), "head.bias": torch.randn(5)}, tmp_path / "fine.safetensors")
    for weights in (checkpoint, tmp_path / "fine.safetensors"):
        network = load_network(ModelOptions(f"open_clip:{NAME}", weights=str(weights), **options))
        assert (network.classes, network.has_classifier) == (32, False)
        expected = both_towers.encode_image(images, normalize=False)
        torch.testing.assert_close(network.module(images), expected, rtol=1e-4, atol=1e-5)


def test_every_dense_layer_is_exported_under_its_name(open_clip: Any) -> None:
    network = load_network(ModelOptions(f"open_clip:{NAME}", weights="random", model_args={"num_classes": 4}))
    names = {layer.name for _, layer in layers(export_graph(network.module, (1, 3, 32, 32)))}
    assert {"visual.conv1", "visual.attn_pool.attn.key", "head"} <= names
    # Three for each of the two blocks, and two for the pool, whose query is a constant.
    assert sum(name.endswith(("query", "key", "value")) for name in names) == 8


def test_converting_an_attention_frees_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they are a fourth of CoCa's weights."""
    converted: list[weakref.ref[nn.Module]] = []

    class Watched(open_clip_source.Attention):
        def __init__(self, attention: nn.MultiheadAttention) -> None:
            assert all(before() is None for before in converted[:-1])
            converted.append(weakref.ref(attention))
            super().__init__(attention)

    monkeypatch.setattr(open_clip_source, "Attention", Watched)
    layers = nn.Sequential(*(nn.MultiheadAttention(4, 2) for _ in range(4)))
    open_clip_source.deployable(open_clip_source.ImageClassifier(layers, nn.Linear(4, 2)))
    assert len(converted) == 4


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("open_clip:coca_ViT-B-33", {"weights": "random"}, ModelError, "coca_ViT-B-32"),
        (
            f"open_clip:{NAME}",
            {"weights": "random", "model_args": {"depth": 3}},
            UsageError,
            "depth.*Valid: num_classes",
        ),
        (f"open_clip:{NAME}", {}, WeightsError, f"no weights for 'open_clip:{NAME}'"),
        ("open_clip:coca_ViT-B-32.none", {}, WeightsError, "laion2b_s13b_b90k"),
    ],
)
def test_models_weights_and_arguments_that_do_not_exist_are_refused(
    open_clip: Any, name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_network(ModelOptions(name, **options))


def test_a_checkpoint_without_head_and_text_tower_is_refused(both_towers: Any, tmp_path: Path) -> None:
    save_file(
        {f"visual.{n}": v.contiguous() for n, v in both_towers.visual.state_dict().items()}, tmp_path / "v.safetensors"
    )
    with pytest.raises(WeightsError):
        load_network(ModelOptions(f"open_clip:{NAME}", weights=str(tmp_path / "v.safetensors")))


def test_a_hub_that_cannot_be_reached_names_the_file_and_the_option(
    open_clip: Any, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("edgekit.models.checkpoint.get_hf_file_metadata", refuse)
    monkeypatch.setattr("edgekit.models.checkpoint.try_to_load_from_cache", lambda *_, **__: None)
    run = ["deploy", "open_clip:coca_ViT-B-32", "--data", str(photos), "-o", str(tmp_path / "run"), "--dry-run", "-q"]
    assert main(run) == 2
    message = capsys.readouterr().err
    assert "open_clip_pytorch_model.bin of the hub repository laion/CoCa-ViT-B-32-laion2B-s13B-b90k" in message
    assert "--weights FILE" in message
