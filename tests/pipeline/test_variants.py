"""Networks as users train them, through the real pipeline: all six bundles of each compute what torch does.

Each combines several choices, and two runtimes stand for the third, because most of the time goes into the converters.
The job itself compares the float graph with torch.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.config.runtimes import RUNTIMES
from edgekit.images.dataset import crop_samples
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.runtime.bundle import Bundle
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
}


@pytest.mark.parametrize("name", VARIANTS)
def test_bundles_compute_what_torch_does(
    name: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variant, reporter = VARIANTS[name], Reporter(quiet=True)
    arguments = parse_model_args(variant.arguments)
    model = ModelOptions(variant.model, "random", arguments, imgsz=variant.size, crop_pct=1.0)
    spec, images = load_job(Job(model, pictures, num_calibration_samples=8, num_eval_samples=8), reporter)
    preprocessing = spec.network.preprocessing
    assert preprocessing.input_shape == (1, arguments.get("in_chans", 3), *variant.size)
    assert spec.network.classes == arguments["num_classes"]
    pixels = crop_samples(images.dataset, images.evaluation.samples, preprocessing).pixels
    expected = torch_logits(spec.network, pixels)
    built = Builder(JobGraphs(spec, reporter)).build(variant.targets, tmp_path, ("int8",))
    assert len(built) == len(variant.targets)
    for title, bundle in built.items():
        assert isinstance(bundle, Bundle), (title, bundle)
        with Session(bundle) as session:
            logits = session(preprocessing.normalize(pixels))
        assert SNR_DB < snr_db(expected - expected.mean(0), logits - logits.mean(0)) < 80, title
    assert "optional_rewrites" not in capsys.readouterr().err  # the user can't mend a shipped recipe
