"""Families of the leaderboard, for all three targets, on real images with seeded weights.

The demo stands for ConvNeXt V2, and test_variants for ViT.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coveragelib.measure import Request, measure
from benchmarks.rows import read_rows
from edgekit.config.runtimes import RUNTIMES
from edgekit.models.options import ModelOptions
from edgekit.pipeline.plan import plan_model

pytestmark = pytest.mark.slow
PARITY = 1e-3
CALIBRATION, EVALUATION = 16, 40
"""Numbers of images."""
# Input side, arguments, and the smallest agreement of INT8 with float. Each network has every kind of layer of its
# family once or twice: the time goes into the converters, which take as long for a layer of any width. CoCa is as wide
# as published, because sizes are planned for networks whose weights outweigh the rest of a file.
MEMBERS: dict[str, tuple[int, dict[str, Any], float]] = {
    "open_clip:coca_small": (112, {}, 0.9),
    "coatnet_0_224": (
        64,
        {"depths": (2, 2), "block_type": ("C", "T"), "stem_width": 16, "embed_dim": (32, 64), "head_hidden_size": 64},
        0.9,
    ),
    "davit_tiny": (64, {"depths": (1, 1), "embed_dims": (64, 128), "num_heads": (2, 4)}, 0.85),
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


@pytest.mark.parametrize("model", MEMBERS)
def test_float_is_torchs_and_int8_agrees_with_it(model: str, shared_data: Path, tmp_path: Path) -> None:
    if model.startswith("open_clip:"):
        add_small_coca(tmp_path)
    side, model_args, agreement = MEMBERS[model]
    images, file = shared_data / "imagenet-500.zip", tmp_path / "rows.json"
    measure(Request({}, model, images, side, True, model_args, CALIBRATION, EVALUATION), file)
    rows = read_rows(file)
    assert [row["target"] for row in rows] == list(RUNTIMES)
    planned = {
        (bundle.target, bundle.precision): bundle.size_bytes
        for bundle in plan_model(ModelOptions(model, weights="random", imgsz=side, model_args=model_args)).artifacts
    }
    for row in rows:
        assert "reason" not in row, row["reason"]
        assert row["answers"] > 5  # otherwise agreement would be meaningless
        assert row["float_parity"] <= PARITY
        assert row["agreement"] >= agreement
        assert row["int8_share_of_macs"] > 0.8
        if row["params"] > 1e7:
            sizes: dict[str, Any] = {p: planned[row["target"], p] for p in ("float", "int8")}
            assert sizes["float"] == pytest.approx(row["float_bytes"], rel=0.05)
            assert sizes["int8"] == pytest.approx(row["int8_bytes"], rel=0.05)
