"""One model of each family on the leaderboard, for all three targets, on real images with seeded weights."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.leaderboard import TARGETS, measure
from edgekit.models.options import ModelOptions
from edgekit.pipeline.plan import plan_model

pytestmark = pytest.mark.slow
PARITY = 1e-3
# Input side, arguments, and the smallest agreement of INT8 with float. The sides are at most half the published ones,
# and two families have fewer blocks, so that all models take minutes. The kinds of layers are the same.
MEMBERS: dict[str, tuple[int, dict[str, Any], float]] = {
    "convnextv2_atto": (96, {"depths": (1, 1, 2, 1)}, 0.9),
    "vit_small_patch16_224": (112, {"depth": 3}, 0.9),
    "open_clip:coca_ViT-B-32": (112, {}, 0.9),
    "coatnet_0_224": (128, {}, 0.9),
    "davit_tiny": (112, {}, 0.85),
}


@pytest.mark.parametrize("model", MEMBERS)
def test_float_is_torchs_and_int8_agrees_with_it(model: str, shared_data: Path) -> None:
    if model.startswith("open_clip:") and find_spec("open_clip") is None:
        pytest.skip("needs the open-clip extra")
    side, model_args, agreement = MEMBERS[model]
    rows = measure(model, side, shared_data / "imagenet-500.zip", 32, 100, model_args)
    assert [row["target"] for row in rows] == list(TARGETS)
    planned = {
        (bundle.target, bundle.precision): bundle.size_bytes
        for bundle in plan_model(ModelOptions(model, weights="random", imgsz=side, model_args=model_args)).artifacts
    }
    for row in rows:
        assert row["answers"] > 5  # otherwise agreement would be meaningless
        assert row["float_parity"] <= PARITY
        assert row["agreement"] >= agreement
        assert row["int8_share_of_macs"] > 0.8
        if row["params"] > 2e7:
            sizes: dict[str, Any] = {p: planned[row["target"], p] for p in ("float", "int8")}
            assert sizes["float"] == pytest.approx(row["float_bytes"], rel=0.05)
            assert sizes["int8"] == pytest.approx(row["int8_bytes"], rel=0.05)
