"""Queries and keys of attention in INT8, for OpenVINO."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.compat.openvino import openvino
from edgekit.compiler.graph import A
from edgekit.config.recipes import Recipe
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.backend import load_lowering
from edgekit.runtime.openvino.backend import Backend
from edgekit.runtime.session import pairs_that_can_saturate
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86

SHAPE = (1, 3, 16, 16)


class Attention(nn.Module):
    """Attention with two heads over the patches of an image, with queries and keys that aren't symmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2).transpose(1, 2)
        queries, keys, values = self.qkv(rows).reshape(1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(queries + 1, keys + 1, values)
        logits: Tensor = self.head(mixed.transpose(1, 2).flatten(2)).mean(1)
        return logits


def recipe(on: bool) -> Recipe:
    default = Recipe.load("default")
    lowerings = ("int8-attention",) if on else ()
    return replace(default, targets={"openvino": replace(default.targets["openvino"], lowerings=lowerings)})


@pytest.fixture
def images() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=SHAPE).astype(np.float32) for _ in range(4)]


@pytest.fixture
def graph() -> GraphModule:
    torch.manual_seed(0)
    return export_graph(Attention().eval(), SHAPE)


@pytest.mark.parametrize("on", [True, False])
def test_queries_and_keys_have_symmetric_ranges(
    graph: GraphModule, images: list[NDArray[np.float32]], on: bool
) -> None:
    placement = load_lowering("openvino").placement(recipe(on), "openvino", graph)
    assert placement.int8_products(graph) == ({"scaled_dot_product_attention"} if on else set())
    quantized = quantize(graph, images, recipe(on), "openvino")
    (attention,) = quantized.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default)
    dequantizers = [value for value in attention.args[:3] if "dequantize" in str(value.target)]
    assert [node.args[2:5] for node in dequantizers] == [(0, -128, 127)] * (2 if on else 0)


def test_openvino_computes_the_same(graph: GraphModule, images: list[NDArray[np.float32]], tmp_path: Path) -> None:
    quantized = quantize(graph, images, recipe(True), "openvino", limit_pairs=True)
    with torch.no_grad():
        expected = np.concatenate([quantized(torch.from_numpy(image)).numpy() for image in images])
        Backend().compile(quantized, tmp_path, METADATA, X86)
    assert pairs_that_can_saturate("openvino", tmp_path / "model.xml") == 0
    model = openvino.Core().compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert snr_db(expected, np.concatenate([model(image)[0] for image in images])) > 30


def test_keys_without_a_limit_can_saturate(
    graph: GraphModule, images: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    quantized = quantize(graph, images, recipe(True), "openvino")
    Backend().compile(quantized, tmp_path, METADATA, X86)
    pairs_of_keys = 2 * 16 * 4  # two heads, 16 tokens, eight values in pairs
    assert (pairs_that_can_saturate("openvino", tmp_path / "model.xml") or 0) >= pairs_of_keys
