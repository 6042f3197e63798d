"""Networks that no library has: their sizes are the published ones."""

from typing import Any

import pytest
import torch

from benchmarks.giant_networks import CoAtNet7
from edgekit.models.loading import build_meta
from edgekit.models.options import ModelOptions


def test_coca_2b_has_the_published_image_tower() -> None:
    pytest.importorskip("open_clip")
    module, size = build_meta(ModelOptions("benchmarks.giant_networks:coca_2b"))
    assert size == (288, 288)
    blocks: Any = module.get_submodule("visual.transformer.resblocks")
    assert len(blocks) == 40
    assert blocks[0].mlp.c_fc.weight.shape == (6144, 1408)
    assert module.get_submodule("visual.conv1").kernel_size == (18, 18)
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e9 == pytest.approx(1, abs=0.03)


def test_coatnet_7_has_about_the_published_parameters() -> None:
    """The paper has 2.44 G; timm's shortcuts and head differ slightly from the paper's."""
    with torch.device("meta"):
        module = CoAtNet7(num_classes=10)
        assert module(torch.zeros(1, 3, 224, 224)).shape == (1, 10)
    assert sum(parameter.numel() for parameter in module.parameters()) / 2.44e9 == pytest.approx(1, abs=0.02)
