"""benchmarks/four_bits.py: better rounding loses less, and a file in 4 bits computes what its levels say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.four_bits import arguments
from benchmarks.fourlib.files import store_in_four_bits
from benchmarks.fourlib.rounding import HIGH, LOW, METHODS, FourBitWalk, round_to_four_bits
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.quantizers import int8_weight
from edgekit.config.recipes import load_recipe
from edgekit.runtime.tflite.backend import Backend
from edgekit.support.libraries import quiet
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.litert import run_file
from tests.helpers.tiny import X86


def test_each_method_loses_less_than_the_one_before() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 24, 32, dtype=torch.float64) ** 3  # with outliers, which are worth clipping
    inputs = torch.randn(400, 32, dtype=torch.float64) @ torch.randn(32, 32, dtype=torch.float64)
    covariance, smallest = (inputs.T @ inputs)[None], torch.full((1, 24), 1e-3, dtype=torch.float64)
    errors = []
    for method in METHODS.values():
        levels, scales = round_to_four_bits(weight, covariance, smallest, method)
        assert levels.min() >= LOW
        assert levels.max() <= HIGH
        assert torch.equal(levels, levels.round())
        missing = weight - levels * scales[:, :, None]
        errors.append(float(((missing @ covariance) * missing).sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


class Products(nn.Module):
    """A convolution with one tap and a ReLU, one with more taps, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.point, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.point(torch.relu(self.stem(x)))).mean((2, 3)))
        return logits


def test_a_file_computes_with_its_levels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = [random.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    recipe = replace(load_recipe("default"), weight_rounding="nearest")
    graph = quantize(export_graph(Products().eval(), (1, 3, 8, 8)), images, recipe, "tflite")
    with quiet(), torch.no_grad():
        FourBitWalk(graph, images, ("point", "head"), METHODS["gptq-clip"]).fit()
        widest = {}
        for layer in dense_layers(graph):
            quantizer = int8_weight(layer.node)
            assert quantizer is not None
            weight, scale = quantizer.weight_and_scale(graph)
            widest[layer.name] = float((weight.flatten(1) / scale[:, None]).abs().max())
        Backend().compile(graph, tmp_path, "{}", X86)
    assert {name for name, level in widest.items() if level < 9} == {"point", "head"}
    twin, file = tmp_path / "model.tflite", tmp_path / "four.tflite"
    assert store_in_four_bits(twin, file) == 2
    assert file.stat().st_size < twin.stat().st_size
    np.testing.assert_array_equal(run_file(file, images), run_file(twin, images))


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--networks", "demo,none"])
    assert "unknown networks: none; valid are demo, " in capsys.readouterr().err
