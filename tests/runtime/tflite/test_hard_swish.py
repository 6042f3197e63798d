"""HardSwish between INT8 layers for LiteRT: in int8, or decomposed in float if the recipe asks for it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.nodes import A
from edgekit.config.recipes import Recipe, load_recipe
from edgekit.runtime.backend import load_backend
from edgekit.runtime.tflite.lowering import decompose_hard_swish
from tests.helpers.calibration import quantize
from tests.helpers.graphs import check_values, export_graph
from tests.helpers.tiny import X86

SIZE = 16


@pytest.fixture
def graph() -> GraphModule:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return export_graph(module.eval(), (1, 3, SIZE, SIZE))


@pytest.fixture
def samples() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(scale=4, size=(1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(4)]


def recipe(in_float: bool) -> Recipe:
    default = load_recipe("default").for_target("tflite")
    row = replace(default.targets["tflite"], lowerings=("float-hard-swish",) if in_float else ())
    return replace(default, targets={**default.targets, "tflite": row})


def test_decomposition_is_exact(graph: GraphModule, samples: list[NDArray[np.float32]]) -> None:
    before = [graph(torch.from_numpy(sample)) for sample in samples]
    assert decompose_hard_swish(graph) == 1
    check_values(graph)
    assert not graph.graph.find_nodes(op="call_function", target=A.hardswish.default)
    for sample, wanted in zip(samples, before, strict=True):
        torch.testing.assert_close(graph(torch.from_numpy(sample)), wanted, rtol=1e-5, atol=1e-6)
    assert decompose_hard_swish(graph) == 0


@pytest.mark.parametrize(("in_float", "count"), [(False, 1), (True, 0)])
def test_operators_after_conversion(
    graph: GraphModule, samples: list[NDArray[np.float32]], tmp_path: Path, in_float: bool, count: int
) -> None:
    quantized = quantize(graph, samples, recipe(in_float), "tflite")
    artifact = load_backend("tflite").compile(quantized, tmp_path, "{}", X86)
    model = flatbuffer_utils.read_model(str(tmp_path / artifact.model_file))
    operators = model.subgraphs[0].operators
    kinds = Counter(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) for operator in operators)
    assert (kinds["HARD_SWISH"], kinds["CONV_2D"]) == (count, 2)


def test_device_classes_of_the_shipped_recipe() -> None:
    rows = {name: load_recipe("default").for_class(name).targets["tflite"] for name in ("x86-64-v4", "raspberry-pi-5")}
    assert {name: row.lowerings for name, row in rows.items()} == {
        "x86-64-v4": ("float-hard-swish",),
        "raspberry-pi-5": (),
    }
