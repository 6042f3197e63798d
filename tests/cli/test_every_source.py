"""Every command that takes a model takes one from every source."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekit.cli.main import main
from edgekit.models.loading import load_network
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.report import load_report
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.odd import paddle
from tests.helpers.onnx_files import SIDE, exported

pytestmark = pytest.mark.slow
VIT = "patch_size=8,depth=1,embed_dim=32,num_heads=2,num_classes=10"
CLIP = "clip_tiny_of_tests"
CLIP_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CALIBRATION = ["--num-calibration-samples", "4"]
TIMING = ["--warmup", "0", "--iterations", "2", "--threads", "1"]
GATES = ["--min-speedup", "0", "--max-drop", "100"]


@dataclass(frozen=True)
class Network:
    """Arguments that name a network."""

    model: list[str]
    weights: list[str] = field(default_factory=list)
    """Arguments that `plan` doesn't need."""
    is_searched: bool = False
    """Whether `sensitivity` runs, which takes the longest, and loads networks as `deploy` does."""


def _vit(folder: Path, seed: int) -> Path:
    options = ModelOptions("vit_tiny_patch16_224", "random", parse_model_args(VIT), imgsz=32)
    path = folder / f"vit{seed}.safetensors"
    save_file(load_network(options, seed=seed).module.state_dict(), path)
    return path


def timm(folder: Path) -> Network:
    """With the weights of a soup."""
    path = folder / "soup.safetensors"
    assert main(["soup", *(str(_vit(folder, seed)) for seed in range(2)), "-o", str(path), "--quiet"]) == 0
    return Network(
        ["vit_tiny_patch16_224", "--model-args", VIT, "--imgsz", "32"], ["--weights", str(path)], is_searched=True
    )


def open_clip(folder: Path) -> Network:
    library = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    (folder / f"{CLIP}.json").write_text(json.dumps(CLIP_CONFIG))
    library.add_model_config(folder)
    torch.manual_seed(0)
    towers = library.create_model(CLIP, pretrained=None, load_weights=False)
    save_file({name: value.contiguous() for name, value in towers.state_dict().items()}, folder / "clip.safetensors")
    (folder / "labels.txt").write_text("\n".join(f"class_{label}" for label in range(10)))
    weights = ["--weights", str(folder / "clip.safetensors"), "--labels", str(folder / "labels.txt")]
    return Network([f"open_clip:{CLIP}"], weights)


def transformers(folder: Path) -> Network:
    library = pytest.importorskip("transformers", reason="needs transformers")
    config = library.SwinConfig(
        image_size=32, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=10
    )
    torch.manual_seed(0)
    library.SwinForImageClassification(config).save_pretrained(folder)
    return Network([str(folder)])


def factory(folder: Path) -> Network:
    return Network(["tests.helpers.odd:paddle", "--imgsz", str(SIDE)])


def onnx(folder: Path) -> Network:
    """Squeeze-excite and h-swish with separate biases, at which `sensitivity` once failed."""
    path = exported(folder / "paddle.onnx", paddle(), dynamic=False)
    return Network([str(path), "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"], is_searched=True)


SOURCES = {make.__name__: make for make in (timm, open_clip, transformers, factory, onnx)}


@pytest.fixture(scope="module", params=SOURCES)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return SOURCES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def job(network: Network, photos: Path) -> list[str]:
    """The network, its weights, the images and the cheapest runtime."""
    return [*network.model, *network.weights, "--data", str(photos), "--target", "onnx", "--quiet"]


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    with without_fresh_processes():
        yield


def deployed(folder: str) -> list[str | None]:
    """The bundles in a report that have figures. Nobody has trained the networks, so no verdict can be more."""
    return [row.bundle for row in load_report(Path(folder)).results if row.verdict != "error" and row.accuracy]


def test_deploy_and_sensitivity(job: list[str], network: Network, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    main(["deploy", *job, *CALIBRATION, *TIMING, *GATES, "--num-eval-samples", "4", "-o", folder])
    assert deployed(folder) == ["onnx-float", "onnx-int8"]
    if network.is_searched:
        few = [*CALIBRATION, "--num-eval-samples", "4", "--threads", "1"]
        assert main(["sensitivity", *job, *few, "--max-drop", "100", "-o", folder]) == 0


def test_quantize_and_compile(job: list[str], tmp_path: Path) -> None:
    graphs, bundles = str(tmp_path / "graphs"), str(tmp_path / "bundles")
    assert main(["quantize", *job, *CALIBRATION, "-o", graphs]) == 0
    assert main(["compile", graphs, "-o", bundles, "--quiet"]) == 0


def test_plan(network: Network, capfd: pytest.CaptureFixture[str]) -> None:
    model = [part for part in network.model if part not in ("--mean", "--std", "0.5,0.5,0.5")]
    capfd.readouterr()
    assert main(["plan", *model, "--target", "onnx", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["params"] > 0
