"""Families of the leaderboard, for all three targets, on real images with seeded weights.

The demo stands for ConvNeXt V2, and test_variants for ViT.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.leaderboard import TARGETS, measure

pytestmark = pytest.mark.slow
PARITY = 1e-3
CALIBRATION, EVALUATION = 16, 40
"""Numbers of images."""
# Input side, arguments, and the smallest agreement of INT8 with float. Each network has every kind of layer of its
# family once or twice: the time goes into the converters, which take as long for a layer of any width.
MEMBERS: dict[str, tuple[int, dict[str, Any], float]] = {
    "open_clip:coca_small": (64, {}, 0.85),
    "coatnet_0_224": (
        64,
        {"depths": (2, 2), "block_type": ("C", "T"), "stem_width": 16, "embed_dim": (32, 64), "head_hidden_size": 64},
        0.9,
    ),
    "davit_tiny": (64, {"depths": (1, 1), "embed_dims": (64, 128), "num_heads": (2, 4)}, 0.85),
}


def add_small_coca(folder: Path) -> None:
    """Tell open_clip about coca_ViT-B-32 with two narrow blocks, under the name coca_small."""
    open_clip = pytest.importorskip("open_clip", reason="needs the open-clip extra")
    config = open_clip.get_model_config("coca_ViT-B-32")
    narrow = {"layers": 1, "width": 32, "heads": 2}
    config["embed_dim"] = 128
    config["vision_cfg"] |= {"layers": 2, "width": 128, "head_width": 32, "patch_size": 16, "attn_pooler_queries": 16}
    config["text_cfg"] |= narrow
    config["multimodal_cfg"] |= narrow
    (folder / "coca_small.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.mark.parametrize("model", MEMBERS)
def test_float_is_torchs_and_int8_agrees_with_it(model: str, shared_data: Path, tmp_path: Path) -> None:
    if model.startswith("open_clip:"):
        add_small_coca(tmp_path)
    side, model_args, agreement = MEMBERS[model]
    rows = measure(model, side, shared_data / "imagenet-500.zip", CALIBRATION, EVALUATION, model_args)
    assert [row["target"] for row in rows] == list(TARGETS)
    for row in rows:
        assert row["answers"] > 5  # otherwise agreement would be meaningless
        assert row["float_parity"] <= PARITY
        assert row["agreement"] >= agreement
        assert row["int8_share_of_macs"] > 0.8
