"""Pairs of INT8 weights can't saturate on x86 processors without VNNI, however weights are rounded."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.compiler import rounding
from edgekit.compiler.layers import DenseLayer, dense_layers, int8_weight
from edgekit.compiler.rewrites import rewrite
from edgekit.compiler.rounding import Compensation, pairings_of, round_levels, safe_scales
from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.runtime.backend import load_backend
from edgekit.runtime.session import pairs_that_can_saturate
from edgekit.support.weight_pairs import count_saturating, pairings
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86
from tests.helpers.x86 import run_python

SHAPE = (1, 3, 12, 12)
RUN = """
import json, sys
import numpy as np, onnxruntime, openvino
folder = sys.argv[1]
image = np.load(f"{folder}/image.npy")
logits = {}
for name in ("old", "new"):
    session = onnxruntime.InferenceSession(f"{folder}/onnx-{name}/model.onnx", providers=["CPUExecutionProvider"])
    logits[f"onnx-{name}"] = session.run(None, {"image": image})[0].tolist()
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(f"{folder}/openvino-{name}/model.xml", "CPU", config)
    logits[f"openvino-{name}"] = model(image)[0].tolist()
print(json.dumps(logits))
"""


class Saturating(nn.Module):
    """Each kind of layer, with neighbouring weights that are large and have the same sign."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 15, 3, padding=1),  # an odd number of channels
            nn.ReLU(),
            nn.Conv2d(15, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 12, 3, groups=4),
            nn.ReLU(),
            nn.Conv2d(12, 9, 3, groups=3),
            nn.ReLU(),
            nn.Conv2d(9, 18, 3, groups=9),  # two outputs for each channel
            nn.ReLU(),
            nn.Conv2d(18, 16, 1),
            nn.ReLU(),
        )
        self.hidden, self.head = nn.Linear(16, 30), nn.Linear(30, 6)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.weight.abs_().clamp_(min=0.7 * float(layer.weight.abs().max()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.hidden(self.body(x).mean((2, 3)))))
        return logits


def images(count: int = 4) -> list[NDArray[np.float32]]:
    """Bright images, whose quantized pixels are large."""
    random = np.random.default_rng(0)
    return [random.uniform(0.8, 1, SHAPE).astype(np.float32) for _ in range(count)]


@cache
def exported() -> GraphModule:
    return export_graph(Saturating().eval(), SHAPE)


def quantized(target: str, limit_pairs: bool, rounding: Literal["nearest", "gptq", "fit"] = "gptq") -> GraphModule:
    recipe = replace(Recipe.load("default"), weight_rounding=rounding, estimator="minmax")
    return quantize(rewrite(exported(), []).graph, images(), recipe, target, limit_pairs=limit_pairs)


def levels_of(graph: GraphModule) -> list[tuple[DenseLayer, NDArray[np.int8]]]:
    """Each layer with INT8 weights and their levels."""
    found = []
    for layer in dense_layers(graph):
        quantizer = int8_weight(layer.node)
        if quantizer is None:
            continue
        weight, scale = quantizer.weight_and_scale(graph)
        levels = (weight.double() / scale.double().view(-1, *[1] * (weight.ndim - 1))).round().clamp(-127, 127)
        found.append((layer, levels.to(torch.int8).numpy()))
    return found


def saturating(graph: GraphModule) -> int:
    """Number of pairs of a Q/DQ graph that can saturate."""
    total = 0
    for layer, levels in levels_of(graph):
        rows = levels.reshape(len(levels), -1).astype(int)
        for pairs in pairings_of(layer, torch.from_numpy(levels)):
            total += int((abs(rows[:, pairs[:, 0]] + rows[:, pairs[:, 1]]) > 128).sum())
    return total


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "fit"])
def test_no_pair_saturates_however_weights_are_rounded(rounding: Literal["nearest", "gptq", "fit"]) -> None:
    assert saturating(quantized("onnx", limit_pairs=False, rounding=rounding)) > 0
    assert saturating(quantized("onnx", limit_pairs=True, rounding=rounding)) == 0


def test_no_pair_of_a_large_network_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "ROUNDED_TOGETHER_UP_TO", 0)
    monkeypatch.setattr(rounding, "MOST_INPUTS_OF_LARGE", 30)  # some layers stay rounded to nearest
    assert saturating(quantized("openvino", limit_pairs=True)) == 0


@pytest.mark.slow
def test_a_processor_without_vnni_computes_what_the_graph_does(tmp_path: Path) -> None:
    image, expected, pairs = images(1)[0], {}, {}
    np.save(tmp_path / "image.npy", image)
    for target, (name, limit) in product(("onnx", "openvino"), (("old", False), ("new", True))):
        graph, folder = quantized(target, limit), tmp_path / f"{target}-{name}"
        folder.mkdir()
        with torch.no_grad():
            expected[folder.name] = graph(torch.from_numpy(image)).numpy()
            artifact = load_backend(target).compile(graph, folder, METADATA, X86)
        pairs[folder.name] = pairs_that_can_saturate(target, folder / artifact.model_file)
    ran = json.loads(run_python("Haswell", "-c", RUN, str(tmp_path)))
    errors = {name: np.abs(ran[name] - logits).max() / np.abs(logits).max() for name, logits in expected.items()}
    assert max(errors["onnx-new"], errors["openvino-new"]) < 0.01, errors
    assert min(errors["onnx-old"], errors["openvino-old"]) > 0.05, errors
    assert (pairs["onnx-new"], pairs["openvino-new"]) == (0, 0)
    assert pairs["onnx-old"] == pairs["openvino-old"] != 0


def test_pairs_follow_each_other_with_channels_last() -> None:
    assert [pairs.tolist() for pairs in pairings((8, 5))] == [[[0, 1], [2, 3]]]
    (through,) = pairings((8, 2, 1, 2))  # weight[:, channel, 0, position] is input 2 * channel + position
    assert through.tolist() == [[0, 2], [1, 3]]


def test_an_odd_number_of_channels_may_be_paired_in_two_ways() -> None:
    through, anew = pairings((8, 3, 1, 2))
    assert through.tolist() == [[0, 2], [4, 1], [3, 5]]
    assert anew.tolist() == [[0, 2], [1, 3]]


def test_only_depthwise_layers_have_no_pairs() -> None:
    assert pairings((4, 1, 3, 3), groups=4) == []
    assert len(pairings((8, 1, 3, 3), groups=4)) == 2, "two outputs for each channel"
    assert len(pairings((4, 1, 3, 3))) == 2, "an image in grey"


def test_pairs_that_can_saturate_are_counted_once() -> None:
    levels = np.zeros((3, 4), np.int8)
    levels[0] = [127, 1, -64, -64]
    levels[1] = [127, 2, 2, 127]
    levels[2] = [0, 127, 127, 0]
    assert count_saturating(levels) == 2
    assert count_saturating(np.full((2, 3, 1, 2), 127, np.int8)) == 2 * 4, "of five pairs, one is in both pairings"


shapes = st.sampled_from([(3, 6), (2, 3, 3, 3), (4, 1, 2, 3), (2, 5, 1, 1)])


@given(shapes, st.integers(0, 2**32 - 1))
def test_weights_rounded_to_nearest_never_saturate(shape: tuple[int, ...], seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    ways = [torch.from_numpy(pairs) for pairs in pairings(shape)]
    scales = safe_scales(weight.flatten(1), weight.flatten(1).abs().amax(1) / 127, ways)
    levels = (weight.flatten(1) / scales[:, None]).round().to(torch.int8).view(shape)
    assert count_saturating(levels.numpy()) == 0


@given(shapes, st.integers(0, 2**32 - 1))
def test_weights_that_gptq_moved_never_saturate(shape: tuple[int, ...], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=random).flatten(1)
    inputs = weight.shape[1]
    rows = torch.randn(40, 2, generator=random) @ torch.randn(2, inputs, generator=random)
    compensation = Compensation.of((rows.T @ rows)[None], list(shape))
    ways: Sequence[Tensor] = [torch.from_numpy(pairs) for pairs in pairings(shape)]
    scales = 0.8 * weight.abs().amax(1) / 127  # too small, so that many weights are limited
    levels = round_levels(weight[None], compensation, scales[None], -127, 127, ways)[0]
    assert levels.abs().max() <= 127
    assert count_saturating(levels.to(torch.int8).view(shape).numpy()) == 0
