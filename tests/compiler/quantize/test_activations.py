"""Activations and gates from INT8 to INT8: their grids, and the kernels that each runtime uses for them."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import A, copy_sharing
from edgekit.compiler.layers import quantizer_of, quantizers, set_grid
from edgekit.compiler.placement import set_known_grids
from edgekit.config.recipes import Recipe
from edgekit.measure.accuracy import snr_db
from edgekit.pipeline.graphs import quantize_stage
from edgekit.runtime.backend import load_backend
from edgekit.runtime.profile import profile_model
from tests.helpers.calibration import network_of, noise_for, quantize, spec_of
from tests.helpers.graphs import export_graph
from tests.helpers.litert import run_file
from tests.helpers.tiny import METADATA, X86

SHAPE = (1, 3, 17, 13)


class Block(nn.Module):
    """A convolution with an activation, squeeze-and-excitation, and a layer that reads the product."""

    def __init__(self, activation: nn.Module, gate: nn.Module, low: float = -8.0) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 5, 1)
        self.activation, self.gate, self.low = activation, gate, low

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.depthwise(self.activation(self.stem(image).clamp(self.low, 8.0))))
        gate = self.gate(self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()))
        logits: torch.Tensor = self.head(x * gate).mean((2, 3))
        return logits


class Clamp(nn.Module):
    """A gate as `simplify` leaves a hard sigmoid behind a convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0.0, 1.0)


class Residual(nn.Module):
    """The sum of a layer's output, with an activation, and its input."""

    def __init__(self, layer: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.layer, self.activation = layer, activation

    def forward(self, x: torch.Tensor) -> Any:
        return self.activation(self.layer(x) + x)


class GatedSum(nn.Module):
    """Squeeze-and-excitation on the sum of a value and a layer's output, [N,H,W,C] for linear layers."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer, self.excite = nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 8, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x, order = self.stem(image), (0, 2, 3, 1)
        if isinstance(self.layer, nn.Linear):
            x = (x.permute(order) + self.layer(x.permute(order))).permute(0, 3, 1, 2)
        else:
            x = x + self.layer(x)
        product: torch.Tensor = x * self.excite(x.mean((2, 3), keepdim=True)).sigmoid()
        return product


class Attended(nn.Module):
    """A value of 8 channels times a gate of its means, written as people's own code does."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
        self.squeeze, self.excite, self.along = nn.Linear(8, 4), nn.Linear(4, 8), nn.Conv1d(1, 1, 3, padding=1)
        self.way = way

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image).relu()
        y = x.mean((2, 3))
        n, c = y.shape
        z = self.excite(self.squeeze(y).relu())
        gate = {
            "linear": lambda: z.sigmoid().view(n, c, 1, 1),
            "linear, expanded": lambda: z.sigmoid().view(n, c, 1, 1).expand_as(x),
            "linear, before the sigmoid": lambda: z.unsqueeze(-1).unsqueeze(-1).sigmoid(),
            "linear, indexed": lambda: z.clamp(0, 1)[..., None, None],
            "along channels": lambda: self.along(y.view(n, 1, c)).sigmoid().view(n, -1, 1, 1),
            "not of a layer": lambda: y.sigmoid()[..., None, None],
        }[self.way]()
        logits: torch.Tensor = self.head(gate * x if "expanded" in self.way else x * gate).mean((2, 3))
        return logits


BLOCKS = {"hard-swish": (nn.Hardswish(), Clamp()), "silu": (nn.SiLU(), nn.Sigmoid())}
OTHERS = {"mish": (nn.Mish(), nn.Sigmoid())}


def graph_of(block: nn.Module) -> GraphModule:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return export_graph(block.eval(), SHAPE)


RANDOM = np.random.default_rng(0)
SAMPLES = [RANDOM.normal(scale=2, size=SHAPE).astype(np.float32) for _ in range(4)]


def recipe(target: str, **changes: Any) -> Recipe:
    default = Recipe.load("default")
    row = replace(default.targets[target], **changes)
    return replace(default, targets={**default.targets, target: row})


@cache
def quantized(kind: str, target: str) -> GraphModule:
    """The block of this kind in INT8. Copy it before you change it."""
    return quantize(graph_of(Block(*(BLOCKS | OTHERS)[kind])), SAMPLES, recipe(target), target)


def kinds_on_onnx(path: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    onnxruntime.InferenceSession(str(path), options)
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("kind", BLOCKS)
def test_onnx_runtime_computes_them_in_int8(kind: str, tmp_path: Path) -> None:
    path = compiled(copy_sharing(quantized(kind, "onnx")), "onnx", tmp_path)
    kinds = kinds_on_onnx(path)
    assert kinds["QLinearMul"] == 3, "two activations and the gate's product"
    assert kinds["QLinearGlobalAveragePool"] >= 1
    assert (kinds["Clip"], kinds["QLinearSigmoid"]) == ((2, 0) if kind == "hard-swish" else (0, 3))
    assert not kinds.keys() & {"HardSwish", "HardSigmoid", "Sigmoid", "Mul"}


@pytest.mark.parametrize("kind", [*BLOCKS, *OTHERS])
def test_litert_computes_them_in_int8(kind: str, tmp_path: Path) -> None:
    path = compiled(copy_sharing(quantized(kind, "tflite")), "tflite", tmp_path)
    model = flatbuffer_utils.read_model(str(path))
    names = {value: name for name, value in vars(flatbuffer_utils.schema_fb.TensorType).items()}
    (part,) = model.subgraphs
    kinds = Counter(
        (
            flatbuffer_utils.opcode_to_name(model, op.opcodeIndex),
            names[part.tensors[op.inputs[0]].type],
            names[part.tensors[op.outputs[0]].type],
        )
        for op in part.operators
    )
    int8 = ("INT8", "INT8")
    assert kinds["MUL", *int8] == (1 if kind == "hard-swish" else 3)
    in_float = Counter({name: count for (name, *types), count in kinds.items() if types == ["FLOAT32", "FLOAT32"]})
    tables = {"hard-swish": {"HARD_SWISH": 2}, "silu": {}, "mish": dict.fromkeys(("LOGISTIC", "LOG", "TANH"), 2)}[kind]
    assert tables.items() <= in_float.items(), "between DEQUANTIZE and QUANTIZE, as one table each"
    assert kinds["MEAN", *int8] >= 1
    assert in_float.keys() - tables.keys() <= {"MEAN", "MUL"}, (
        "the mean makes the logits, and products with -1 are in tables"
    )
    assert profile_model(path, threads=1, runs=1).share_of_macs == 1


def computed(graph: GraphModule) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.concatenate([graph(torch.from_numpy(sample)).numpy() for sample in SAMPLES])


def compiled(graph: GraphModule, target: str, folder: Path) -> Path:
    """The model file. It computes what the graph says, but for values between two levels."""
    wanted = computed(graph)
    path = folder / load_backend(target).compile(graph, folder, METADATA, X86).model_file
    assert snr_db(wanted, run_onnx(path) if target == "onnx" else run_file(path, SAMPLES)) > 30
    return path


def run_onnx(path: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), disabled_optimizers=["MatMulAddFusion", "BiasGeluFusion"])
    return np.concatenate([session.run(None, {"image": sample})[0] for sample in SAMPLES])


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_int8_costs_little_accuracy(kind: str, target: str) -> None:
    assert snr_db(computed(graph_of(Block(*BLOCKS[kind]))), computed(quantized(kind, target))) > 40


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("low", [0.0, -8.0])
def test_three_is_a_level_of_the_input_of_hard_swish(low: float, activations: str, tmp_path: Path) -> None:
    block = Block(nn.Hardswish(), Clamp(), low)
    graph = quantize(graph_of(block), SAMPLES, recipe("onnx", activations=activations), "onnx")
    inputs = [
        quantizer
        for quantizer in quantizers(graph)
        if any("hardswish" in str(user.target) for dq in quantizer.node.users for user in dq.users)
    ]
    assert len(inputs) == 2
    for quantizer in inputs:
        assert 3 / quantizer.scale == pytest.approx(round(3 / quantizer.scale), abs=1e-3)
        assert quantizer.represents(-3)
    grids = [quantizer.grid[:2] for quantizer in quantizers(graph) if "clamp" in str(quantizer.source.target)]
    assert (1 / 255, 0 if activations == "uint8" else -128) in grids, "the gate's"
    compiled(graph, "onnx", tmp_path)


@pytest.mark.parametrize(("low", "high"), [(-40, 60), (-1, 300), (0, 8), (-5, 700), (-5, 1000), (-5, 5000)])
def test_the_grid_of_hard_swish_clips_nothing_of_the_calibrated_range(low: float, high: float) -> None:
    graph = copy_sharing(quantized("hard-swish", "onnx"))
    (swish, _) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.hardswish.default)
    quantizer = quantizer_of(swish.args[0])
    assert quantizer is not None
    scale = (high - low) / 255
    set_grid(quantizer, (scale, round(-low / scale), *quantizer.grid[2:]))
    calibrated = quantizer_of(swish.args[0])
    set_known_grids(graph)
    known = quantizer_of(swish.args[0])
    assert calibrated is not None
    assert known is not None
    rounding = known.scale / 2
    assert known.representable_range[0] <= calibrated.representable_range[0] + rounding
    assert known.representable_range[1] >= calibrated.representable_range[1] - rounding
    assert (known.grid == calibrated.grid) == (high - low > 3 * 255)


@pytest.mark.parametrize(
    ("block", "phrases"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 5, 1)), []),
        (
            nn.Sequential(Block(nn.SiLU(), Clamp()), nn.Unflatten(1, (5, 1, 1))),
            ["SiLU from int8 to int8", "gates from int8 to int8"],
        ),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), Residual(nn.Conv2d(8, 8, 3, padding=1), nn.Mish())),
            ["residual sums from int8 to int8"],
        ),
    ],
)
def test_a_scheme_names_what_the_network_has(block: nn.Module, phrases: list[str]) -> None:
    network = network_of(nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16)
    graph, noise = export_graph(network.module, (1, 3, 16, 16)), noise_for(network)
    spec = spec_of(network, Recipe.load("default"), X86)
    scheme = quantize_stage(
        spec, "onnx", "int8", graph, noise, [network.preprocessing.normalize(noise.pixels[:1])]
    ).facts.manifest.scheme
    assert scheme.split(", ")[2:] == ["uint8 inputs and outputs of dense layers", *phrases]


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(("layer", "in_int8"), [(nn.Conv2d(8, 8, 1), True), (nn.Linear(8, 8), False)])
def test_the_product_of_a_gate_and_a_sum_is_in_int8_where_the_sum_is(
    layer: nn.Module, in_int8: bool, target: str
) -> None:
    graph = quantize(graph_of(GatedSum(layer)), SAMPLES, recipe(target), target)
    assert [is_quantized(graph, node) for node in (A.add.Tensor, A.mul.Tensor)] == [in_int8, in_int8]


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(
    "way",
    [
        "linear",
        "linear, expanded",
        "linear, before the sigmoid",
        "linear, indexed",
        "along channels",
    ],
)
def test_views_may_stand_between_a_layer_its_gate_and_the_product(way: str, target: str, tmp_path: Path) -> None:
    # Without limits, a processor without VNNI would saturate.
    graph = quantize(graph_of(Attended(way)), SAMPLES, recipe(target), target, limit_pairs=True)
    assert reads_int8(graph, A.mul.Tensor)
    path = compiled(graph, target, tmp_path)
    if target == "onnx":
        assert kinds_on_onnx(path)["QLinearMul"] == 1


def test_a_gate_that_no_layer_makes_stays_in_float() -> None:
    graph = quantize(graph_of(Attended("not of a layer")), SAMPLES, recipe("onnx"), "onnx")
    assert not reads_int8(graph, A.mul.Tensor)


def reads_int8(graph: GraphModule, operation: Any) -> bool:
    """Whether all operands of the graph's only such operation are quantized."""
    (node,) = graph.graph.find_nodes(op="call_function", target=operation)
    return all(quantizer_of(value) is not None for value in node.args)


def is_quantized(graph: GraphModule, operation: Any) -> bool:
    """Whether the output of the graph's only such operation is quantized."""
    (node,) = graph.graph.find_nodes(op="call_function", target=operation)
    return any(quantizer.source is node for quantizer in quantizers(graph))


def test_a_layer_in_float_keeps_its_activation_in_float() -> None:
    wants = recipe("onnx")
    row = replace(wants.targets["onnx"], float_layers=("stem",))
    graph = quantize(
        graph_of(Block(nn.SiLU(), nn.Sigmoid())),
        SAMPLES,
        replace(wants, targets={"onnx": row}).for_target("onnx"),
        "onnx",
    )
    first, second = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.silu.default)
    assert ["dequantize" in str(node.args[0].target) for node in (first, second)] == [False, True]
