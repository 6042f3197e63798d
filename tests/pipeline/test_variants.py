"""Networks with the arguments that users give them, at sizes that no stride divides, as INT8 on all runtimes."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.config.runtimes import RUNTIMES
from edgekit.models.options import ModelOptions
from edgekit.pipeline.build import build_all
from edgekit.pipeline.job import prepare
from edgekit.pipeline.options import Options
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter

TINY = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
VARIANTS: dict[str, tuple[str, int | tuple[int, int], dict[str, Any]]] = {
    "small patches": ("convnextv2_atto", 32, {**TINY, "patch_size": 2, "num_classes": 10}),
    "convolutions as MLP, odd and not square": (
        "convnext_atto",
        (45, 38),
        {**TINY, "conv_mlp": True, "num_classes": 11},
    ),
    "no class token": (
        "vit_tiny_patch16_224",
        32,
        {"patch_size": 8, "depth": 1, "class_token": False, "global_pool": "avg", "num_classes": 10},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_deployed_on_all_runtimes(variant: str, photos: Path, tmp_path: Path) -> None:
    name, size, arguments = VARIANTS[variant]
    model = ModelOptions(name, weights="random", imgsz=size, model_args=arguments)
    options = Options(model, photos, num_calibration_samples=4, num_eval_samples=4)
    job = prepare(options, Reporter(quiet=True))
    built = build_all(job, tuple(RUNTIMES), tmp_path, Reporter(quiet=True), precisions=("int8",))
    assert {name: error for name, error in built.items() if not isinstance(error, Bundle)} == {}
