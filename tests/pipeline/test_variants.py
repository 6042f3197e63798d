"""Networks as users train them, and families of the leaderboard, through the real pipeline: all give torch's logits.

Each combines several choices, and some runtimes stand for the others, because most of the time goes into the
converters. The job itself compares the float graph and the float bundles with torch. The demo stands for ConvNeXt V2.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgekit.config.runtimes import PRECISIONS, RUNTIMES
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.plan import plan_model
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.profile import profile_bundle
from edgekit.runtime.session import Session
from edgekit.support.progress import Reporter

pytestmark = pytest.mark.slow
SNR_DB = 6
"""Lowest signal-to-noise ratio in decibels of the differences between images. Random weights amplify INT8's noise."""
CONVNEXT = "depths=(1,1,1,1),dims=(8,8,16,16)"
VIT = "depth=1,embed_dim=32,num_heads=2"


@dataclass(frozen=True)
class Variant:
    model: str
    arguments: str
    size: tuple[int, int]
    """Height and width in pixels."""
    targets: tuple[str, ...]
    is_family: bool = False
    """Whether it has every kind of layer of a family that no other test builds. Then float is built, too."""


VARIANTS = {
    "ConvNeXt V2 for small images": Variant(
        "convnextv2_atto", f"{CONVNEXT},patch_size=2,conv_mlp=True,num_classes=2", (36, 44), tuple(RUNTIMES)
    ),
    "grey ConvNeXt with small kernels, down to one pixel": Variant(
        "convnext_atto",
        f"{CONVNEXT},in_chans=1,kernel_sizes=(3,5,5,3),conv_mlp=False,global_pool='max',num_classes=11",
        (37, 40),
        ("onnx", "tflite"),
    ),
    "grey ViT with registers and without class token": Variant(
        "vit_tiny_patch16_224",
        f"{VIT},patch_size=7,in_chans=1,reg_tokens=2,class_token=False,global_pool='avg',num_classes=11",
        (28, 35),
        ("openvino", "tflite"),
    ),
    "distilled DeiT": Variant(
        "deit_tiny_distilled_patch16_224", f"{VIT},patch_size=8,num_classes=11", (32, 32), ("onnx",)
    ),
    "ResNet with two poolings": Variant(
        "resnet10t", "channels=(8,8,16,16),global_pool='catavgmax',num_classes=2", (33, 47), ("openvino", "tflite")
    ),
    # As wide as published, because sizes are planned for networks whose weights outweigh the rest of a file.
    "CoCa": Variant("open_clip:coca_small", "", (112, 112), ("openvino",), is_family=True),
    "CoAtNet": Variant(
        "coatnet_0_224",
        "depths=(2,2),block_type=('C','T'),stem_width=16,embed_dim=(32,64),head_hidden_size=64,num_classes=11",
        (64, 64),
        ("onnx", "tflite"),
        is_family=True,
    ),
    "DaViT": Variant(
        "davit_tiny",
        "depths=(1,1),embed_dims=(64,128),num_heads=(2,4),num_classes=11",
        (64, 64),
        ("openvino", "tflite"),
        is_family=True,
    ),
}


def add_small_coca(folder: Path) -> None:
    """Tell open_clip about coca_ViT-B-32 with a sixth of its blocks, under the name coca_small."""
    open_clip = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    config = open_clip.get_model_config("coca_ViT-B-32")
    narrow = {"layers": 1, "width": 32, "heads": 2}
    config["vision_cfg"]["layers"] = 2
    config["text_cfg"] |= narrow
    config["multimodal_cfg"] |= narrow
    (folder / "coca_small.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.mark.parametrize("name", VARIANTS)
def test_bundles_compute_what_torch_does(
    name: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant, reporter = VARIANTS[name], Reporter(quiet=True)
    arguments = parse_model_args(variant.arguments)
    model = ModelOptions(variant.model, "random", arguments, imgsz=variant.size, crop_pct=1.0)
    if name == "CoCa":
        add_small_coca(tmp_path)
        model = replace(model, labels=tuple(f"class_{label}" for label in range(1000)))
    spec, images = load_job(Job(model, pictures, num_calibration_samples=8, num_eval_samples=8), reporter)
    preprocessing = spec.network.preprocessing
    assert preprocessing.input_shape == (1, arguments.get("in_chans", 3), *variant.size)
    assert spec.network.classes == arguments.get("num_classes", spec.network.classes)
    pixels = images.dataset.crop(images.evaluation.samples, preprocessing).pixels
    expected = torch_logits(spec.network, pixels)
    precisions = PRECISIONS if variant.is_family else ("int8",)
    built = Builder(JobGraphs(spec, reporter)).build(variant.targets, tmp_path, precisions)
    assert len(built) == len(variant.targets) * len(precisions)
    for title, bundle in built.items():
        assert isinstance(bundle, Bundle), (title, bundle)
        if bundle.manifest.precision == "float":
            continue
        with Session(bundle) as session:
            logits = session(preprocessing.normalize(pixels))
        assert SNR_DB < snr_db(expected - expected.mean(0), logits - logits.mean(0)) < 80, title
        if variant.is_family:
            assert profile_bundle(bundle, 1).share_of_macs > 0.8
    if spec.network.params > 1e7:
        for planned in plan_model(model, variant.targets).artifacts:
            bundle = built[f"{planned.target}-{planned.precision}"]
            assert isinstance(bundle, Bundle)
            assert planned.size_bytes == pytest.approx(bundle.size_bytes, rel=0.05)
    assert "optional_rewrites" not in capsys.readouterr().err  # the user can't mend a shipped recipe
