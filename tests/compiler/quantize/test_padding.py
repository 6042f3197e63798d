"""Separate zero padding before convolutions, as in TensorFlow's 'same': Q comes before it, and kernels do it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compat.openvino import openvino
from edgekit.compiler.graph import A
from edgekit.compiler.layers import quantizers
from edgekit.config.recipes import Recipe
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.backend import load_backend
from edgekit.runtime.tflite.backend import requantize_paddings
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.litert import run_file
from tests.helpers.tiny import METADATA, X86

SIZE = 17


@pytest.fixture(scope="module")
def samples() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(4)]


@pytest.fixture
def graph() -> GraphModule:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU6(),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.ReLU6(),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return export_graph(module.eval(), (1, 3, SIZE, SIZE))


def openvino_operations(path: Path) -> Counter[str]:
    compiled = openvino.Core().compile_model(str(path), "CPU")
    return Counter(node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops())


def onnx_operations(path: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def tflite_operations(path: Path) -> Counter[str]:
    model = flatbuffer_utils.read_model(str(path))
    return Counter(
        flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) for operator in model.subgraphs[0].operators
    )


@pytest.mark.parametrize(
    ("target", "count", "left"),
    [
        ("openvino", openvino_operations, {"Pad": 0, "Convolution": 3}),
        ("onnx", onnx_operations, {"Pad": 0, "QLinearConv": 3}),
        # XNNPACK fuses a padding into the convolution right after it, so only the input's transpose may remain.
        ("tflite", tflite_operations, {"TRANSPOSE": 1, "CONV_2D": 2, "DEPTHWISE_CONV_2D": 1}),
    ],
)
def test_kernels_do_the_padding(
    target: str,
    count: Callable[[Path], Counter[str]],
    left: dict[str, int],
    graph: GraphModule,
    samples: list[NDArray[np.float32]],
    tmp_path: Path,
) -> None:
    quantized = quantize(graph, samples, Recipe.load("default").for_target(target), target)
    for node in quantized.graph.find_nodes(op="call_function", target=A.pad.default):
        assert "dequantize_per_tensor" in str(node.args[0].target)
    artifact = load_backend(target).compile(quantized, tmp_path, METADATA, X86)
    counts = count(tmp_path / artifact.model_file)
    assert {name: counts[name] for name in left} == left


@pytest.mark.parametrize(
    ("pool", "changed"),
    [
        (nn.AvgPool2d(3, 2, padding=1), 1),
        (nn.Sequential(nn.ZeroPad2d((0, 2, 0, 1)), nn.AvgPool2d(3, 2)), 1),
        (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), 0),
        (nn.AvgPool2d(3, 2), 0),
    ],
)
def test_padding_of_an_average_keeps_the_range_before_it(
    pool: nn.Module, changed: int, samples: list[NDArray[np.float32]]
) -> None:
    quantized, image = pooled(pool, samples), torch.from_numpy(samples[0])
    with torch.no_grad():
        expected = quantized(image)
        before = len(list(quantizers(quantized)))
        requantize_paddings(quantized)
        quantized.recompile()
        assert len(list(quantizers(quantized))) == before + changed
        torch.testing.assert_close(quantized(image), expected)
    if changed:
        (average,) = quantized.graph.find_nodes(op="call_function", target=A.avg_pool2d.default)
        after, (before,) = average.args[0], quantized.graph.find_nodes(op="call_function", target=A.pad.default)
        assert after.args[1:] == before.args[0].args[1:]


@pytest.mark.parametrize("after", [nn.AvgPool2d(3, 1), nn.Conv2d(8, 8, 3)])
def test_a_padding_outside_of_the_range_is_not_clipped(
    after: nn.Module, samples: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    """With 6 around values below 1, LiteRT's logits had 6 dB."""
    quantized = pooled(nn.Sequential(nn.ReLU(), nn.ConstantPad2d(1, 6.0), after), samples)
    expected = np.concatenate([quantized(torch.from_numpy(image)).detach().numpy() for image in samples])
    load_backend("tflite").compile(quantized, tmp_path, METADATA, X86)
    assert snr_db(expected, run_file(tmp_path / "model.tflite", samples)) > 30


def pooled(pool: nn.Module, samples: list[NDArray[np.float32]]) -> GraphModule:
    """A graph calibrated for LiteRT, with a pooling between two convolutions."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), pool, nn.Conv2d(8, 8, 3), nn.Flatten()]
    graph = export_graph(nn.Sequential(*layers).eval(), (1, 3, SIZE, SIZE))
    return quantize(graph, samples, Recipe.load("default").for_target("tflite"), "tflite")
