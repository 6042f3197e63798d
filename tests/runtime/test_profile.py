"""The contract of every runtime's profiler, and the cases in which it is hard to tell whether a kernel is integer."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import EngineError, InputError, UsageError
from edgekit.runtime.bundle import Bundle, ManifestLayer, read_bundle
from edgekit.runtime.engine import import_runtime
from edgekit.runtime.onnx import profiler as onnxruntime
from edgekit.runtime.onnx.engine import OnnxGraph, read_onnx
from edgekit.runtime.openvino import profiler as openvino
from edgekit.runtime.profile import (
    OpProfile,
    Profile,
    ProfiledLayer,
    Ran,
    matrix_macs,
    owners,
    profile_bundle,
    profile_model,
    with_layer_names,
    with_surroundings,
)
from edgekit.runtime.tflite import profiler as tflite
from tests.helpers.onnx_files import written
from tests.helpers.refusals import refuses
from tests.helpers.tiny import CLASSES, SIDE, MakeBundle, compile_all

TITLES = {name: target.title for name, target in RUNTIMES.items()}
Profiles = dict[str, tuple[Bundle, Profile]]


@pytest.fixture(scope="module")
def int8_profiles(finished_run: Path) -> Profiles:
    """A small ConvNeXt V2 that edgekit quantized and compiled for each runtime, and its profile."""
    bundles = {target: read_bundle(finished_run / f"{target}-int8") for target in RUNTIMES}
    return {target: (bundle, profile_bundle(bundle, threads=1, runs=2)) for target, bundle in bundles.items()}


@pytest.mark.parametrize("target", RUNTIMES)
def test_a_float_bundle_has_nothing_in_integer_kernels(make_bundle: MakeBundle, target: str) -> None:
    bundle = read_bundle(make_bundle(target))
    measured = profile_bundle(bundle, threads=1, runs=2)
    assert (measured.share_of_macs, measured.int8_macs, measured.simulated) == (0.0, 0, False)
    assert measured.total_macs == pytest.approx(sum(layer["macs"] for layer in bundle.manifest.layers), rel=0.01)
    assert len(measured.float_layers) == len(measured.ops) == 2
    assert {op.reason for op in measured.ops} == {"not quantized in the file"}
    assert measured.method.startswith(TITLES[target])
    assert measured.time_by_kind
    assert all(ms > 0 for ms in measured.time_by_kind.values())


@pytest.mark.parametrize("target", RUNTIMES)
def test_an_int8_bundle_has_most_of_it_in_integer_kernels(int8_profiles: Profiles, target: str) -> None:
    bundle, measured = int8_profiles[target]
    layers = {layer["name"]: layer for layer in bundle.manifest.layers}
    assert 0.5 < measured.share_of_macs < 1
    assert not measured.simulated
    assert measured.total_macs == pytest.approx(sum(layer["macs"] for layer in layers.values()), rel=0.01)
    assert {op.name for op in measured.ops} == set(layers)
    depthwise = {name: layer["int8"] for name, layer in layers.items() if layer["op"] == "depthwise"}
    in_float = {name for name, int8 in depthwise.items() if not int8}
    assert in_float
    assert depthwise.keys() & set(measured.float_layers) == in_float
    assert {op.name for op in measured.ops if op.int8} == {name for name, layer in layers.items() if layer["int8"]}
    assert all(op.reason for op in measured.ops if not op.int8)
    assert not any(op.reason for op in measured.ops if op.int8)
    assert measured.time_by_kind is not None
    if target != "tflite":  # its profiler counts whole microseconds, and every kernel here may be faster
        assert any(kind.endswith(" int8") for kind in measured.time_by_kind)


@pytest.fixture(scope="module")
def attention_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-attention over 16 tokens with 8 channels, compiled for every runtime."""
    from torch import Tensor, nn
    from torch.nn.functional import scaled_dot_product_attention

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.inner, self.head = nn.Conv2d(3, 24, 8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.patches(x).flatten(2).transpose(1, 2).view(1, 16, 2, 3, 4).permute(3, 0, 2, 1, 4)
            tokens = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 16, 8)
            logits: Tensor = self.head(self.inner(tokens).mean(1))
            return logits

    return compile_all(Attention().eval(), (1, 3, SIDE, SIDE), tmp_path_factory.mktemp("attention"))


@pytest.mark.parametrize("suffix", [".xml", ".onnx", ".tflite"])
def test_products_of_activations_count(attention_models: Path, suffix: str) -> None:
    patches, attention, inner, head = 16 * 24 * 192, 2 * 2 * 16 * 16 * 4, 16 * 8 * 8, 8 * CLASSES
    measured = profile_model(attention_models / f"model{suffix}", runs=1)
    assert measured.total_macs == patches + attention + inner + head


def test_a_matrix_product_is_counted_however_it_is_stored() -> None:
    assert matrix_macs((2, 5, 3), (2, 3, 7), (2, 5, 7)) == 2 * 5 * 3 * 7
    assert matrix_macs((2, 3, 5), (2, 7, 3), (2, 5, 7)) == 2 * 5 * 3 * 7
    assert matrix_macs((1, 4, 5, 3), (7, 3), (1, 4, 5, 7)) == 4 * 5 * 3 * 7
    assert matrix_macs((0, 3), (3, 7), (0, 7)) == 0
    # The products of attention with 2 heads on 256 rows that ONNX Runtime transposes while it multiplies.
    assert matrix_macs((256, 1, 2, 8), (256, 1, 2, 8), (1, 2, 256, 256)) == 2 * 256 * 8 * 256
    assert matrix_macs((1, 2, 256, 256), (256, 1, 2, 8), (1, 2, 256, 8)) == 2 * 256 * 256 * 8


def test_operations_are_named_after_the_layers_of_the_manifest() -> None:
    """Attention is two products on some runtimes. A layer may have a reason to be in float."""
    layers: list[ManifestLayer] = [
        {"name": "stem", "op": "conv", "macs": 9, "int8": False, "reason": "no kernel"},
        {"name": "attention", "op": "matmul", "macs": 8, "int8": False},
        {"name": "head", "op": "linear", "macs": 4, "int8": True},
    ]
    ops = tuple(
        OpProfile(f"node_{macs}", "kernel", macs, int8, reason=None if int8 else "float")
        for macs, int8 in ((9, False), (4, False), (4, False), (4, True), (7, False))
    )
    for products in (ops, (ops[0], replace(ops[1], macs=8), *ops[3:])):
        named = with_layer_names(Profile("", products, None), layers)
        assert [op.name for op in named.ops][-3:] == ["attention", "head", "node_7"]
        assert named.ops[0].name == "stem"
        assert [op.reason for op in named.ops if op.name != "attention"] == ["no kernel", None, "float"]
        assert sum(op.macs for op in named.ops) == 9 + 8 + 4 + 7


@pytest.mark.parametrize("target", RUNTIMES)
def test_layers_have_the_same_names_in_float_and_int8_and_all_of_the_time(
    int8_profiles: Profiles, finished_run: Path, target: str
) -> None:
    bundle, int8 = int8_profiles[target]
    names = {layer["name"] for layer in bundle.manifest.layers}
    for measured in (int8, profile_bundle(read_bundle(finished_run / f"{target}-float"), threads=1, runs=2)):
        assert {layer.name for layer in measured.layer_times} == names
        assert measured.time_by_kind is not None
        total = sum(measured.time_by_kind.values())
        assert sum(layer.ms + layer.around_ms for layer in measured.layer_times) == pytest.approx(total)


def test_the_products_of_attention_are_one_layer() -> None:
    """One that is part of a fused operation has that one's time around it, and one that nothing ran has none."""
    ops = (OpProfile("attn", "a", 4, True, 1.0, around_ms=0.5), OpProfile("attn", "b", 4, False, 2.0, around_ms=0.25))
    fused, unseen = OpProfile("fused", "c", 4, True, None, around_ms=0.5), OpProfile("unseen", "d", 4, False)
    layers = (ProfiledLayer("attn", 3.0, 0.75, False), ProfiledLayer("fused", 0.0, 0.5, True))
    assert Profile("", (*ops, fused, unseen), None).layer_times == layers


def test_of_layers_of_equal_size_the_name_decides_and_then_the_order() -> None:
    """LiteRT runs branches in another order, and names a convolution after the activation in it."""
    names = ("b.conv1", "b.branch1.conv", "b.branch2.conv", "b.k", "b.q")
    layers: list[ManifestLayer] = [{"name": name, "op": "conv", "macs": 9, "int8": True} for name in names]
    ran = ("act", "b.branch2.act", "b.branch1.act", "b.q", "another;1")
    named = with_layer_names(Profile("", tuple(OpProfile(name, "", 9, True) for name in ran), None), layers)
    assert [op.name for op in named.ops] == ["b.conv1", "b.branch2.conv", "b.branch1.conv", "b.q", "b.k"]


def test_openvino_s_products_are_in_the_order_of_the_calls() -> None:
    names = ["conv_2/Conv", "linear_10/MatMul", "conv/Conv", "other", "linear_2/MatMul", "conv_1/Conv", "another"]
    calls = [SimpleNamespace(get_friendly_name=lambda name=name: name) for name in names]
    ordered = [call.get_friendly_name() for call in openvino._in_order_of_calls(calls)]
    assert ordered == [
        "conv/Conv",
        "linear_2/MatMul",
        "conv_1/Conv",
        "other",
        "linear_10/MatMul",
        "conv_2/Conv",
        "another",
    ]


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two INT8 convolutions and an activation in float after each, as an ONNX and an OpenVINO model."""
    tensors: dict[str, NDArray[Any]] = {
        "scale": np.array(np.float32(0.05)),
        "zero": np.array(np.uint8(128)),
        "weight_scale": np.full(16, 0.01, np.float32),
        "weight_zero": np.zeros(16, np.int8),
        "weight": np.random.default_rng(0).integers(-127, 127, (16, 16, 3, 3), np.int8),
    }
    node, grid, value = helper.make_node, ["scale", "zero"], "x"
    nodes = []
    for name, after in (("first", "between"), ("second", "y")):
        nodes += [
            node("QuantizeLinear", [value, *grid], [f"{name}_q"], f"{name}_q"),
            node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_d"], f"{name}_d"),
            node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], [f"{name}_w"], f"{name}_w", axis=0),
            node("Conv", [f"{name}_d", f"{name}_w"], [f"{name}_y"], name, pads=[1, 1, 1, 1]),
            node("QuantizeLinear", [f"{name}_y", *grid], [f"{name}_yq"], f"{name}_yq"),
            node("DequantizeLinear", [f"{name}_yq", *grid], [f"{name}_yd"], f"{name}_yd"),
            node("HardSwish", [f"{name}_yd"], [value := after], f"{name}_act"),
        ]
    folder = tmp_path_factory.mktemp("two_layers")
    write_onnx(folder / "model.onnx", nodes, tensors, x=[1, 16, 8, 8], y=[1, 16, 8, 8])
    ov = import_runtime("openvino")
    ov.save_model(ov.convert_model(folder / "model.onnx"), folder / "model.xml")
    return folder


@pytest.mark.parametrize(("profiler", "suffix"), [(onnxruntime, ".onnx"), (openvino, ".xml")])
def test_what_surrounds_a_layer_belongs_to_it(
    two_layers: Path, monkeypatch: pytest.MonkeyPatch, profiler: Any, suffix: str
) -> None:
    """The second convolution's Q belongs to it, and the first one's DQ and activation, without names, to the first."""
    ran: list[Ran] = []

    def record(measured: Profile, operations: list[Ran]) -> Profile:
        ran.extend(operations)
        return with_surroundings(measured, operations)

    monkeypatch.setattr(profiler, "with_surroundings", record)
    measured = profile_model(two_layers / f"model{suffix}", threads=1, runs=1)
    assert [(op.name, op.int8) for op in measured.ops] == [("first", True), ("second", True)]
    owned = owners(ran)
    middle = owned.index(1)
    assert set(owned[:middle]) == {0}
    assert set(owned[middle:]) == {1}
    conversions = [owner for owner, op in zip(owned, ran, strict=True) if op.converted]
    assert conversions == ([0, 0, 1, 1] if suffix == ".onnx" else [0])  # OpenVINO converts in other kernels
    assert (measured.conversion_ns or 0) >= 0


def test_an_operation_belongs_to_the_nearest_product() -> None:
    """Changes of layout belong to the product that reads them, and other operations to the last one before them."""
    ran = [
        Ran(1, (), None, moves=False),  # at the start
        Ran(1, (0,), None, moves=True),
        Ran(0, (1,), 0, moves=False),
        Ran(1, (2,), None, moves=True),  # read by the second product, and later by the sum
        Ran(0, (3,), 1, moves=False),
        Ran(1, (3, 4), None, moves=False),
        Ran(1, (5,), None, moves=True),  # read by no product
        Ran(1, (), None, moves=True),  # between no products
    ]
    assert owners(ran) == [0, 0, 0, 1, 1, 1, 1, None]
    measured = with_surroundings(Profile("", (OpProfile("a", "", 1, True),) * 2, None), ran)
    assert [op.around_ms for op in measured.ops] == [2, 3]


# ONNX Runtime


def write_onnx(
    path: Path, nodes: list[onnx.NodeProto], tensors: dict[str, NDArray[Any]], **shapes: list[Any] | None
) -> Path:
    """Write a model of `nodes` with one input x and one output y of these shapes."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path)
    return path


def test_a_stock_quantized_pointwise_convolution_runs_in_float(tmp_path: Path) -> None:
    """Q/DQ before a 1x1 convolution but none after it: no integer kernel fits, and GELU follows as in ConvNeXt."""
    scale, zero = np.float32(0.02), np.uint8(128)
    tensors: dict[str, NDArray[Any]] = {
        "scale": np.array(scale),
        "zero": np.array(zero),
        "weight_scale": np.full(32, 0.01, np.float32),
        "weight_zero": np.zeros(32, np.int8),
        "weight": np.random.default_rng(0).integers(-127, 127, (32, 8, 1, 1), np.int8),
    }
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["xq"], "quantize"),
        node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"], "dequantize"),
        node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["wd"], "weights", axis=0),
        node("Conv", ["xd", "wd"], ["c"], "pointwise"),
        node("Gelu", ["c"], ["y"], "gelu"),
    ]
    path = write_onnx(tmp_path / "stock.onnx", nodes, tensors, x=[1, 8, 6, 6], y=[1, 32, 6, 6])
    measured = profile_model(path, runs=1)
    assert measured.share_of_macs == 0
    assert measured.simulated
    assert measured.float_layers == ("pointwise",)
    (op,) = measured.ops
    assert (op.kernel, op.macs) == ("Conv", 6 * 6 * 32 * 8)
    assert "ONNX Runtime has no integer kernel" in (op.reason or "")


def test_a_sum_that_is_written_as_a_product_is_not_counted(tmp_path: Path) -> None:
    tensors = {"ones": np.ones((1, 12), np.float32), "twos": np.full((1, 1), 2, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["ones", "x"], ["s"], "sum"),
        helper.make_node("MatMul", ["twos", "s"], ["y"], "scale"),
    ]
    path = write_onnx(tmp_path / "sum.onnx", nodes, tensors, x=[12, 5], y=[1, 5])
    (op,) = profile_model(path, runs=1).ops
    assert (op.name, op.macs) == ("scale", 5)


def test_constants_of_any_type_and_size_may_be_the_operands_of_products(tmp_path: Path) -> None:
    """The bytes of 33x2 weights and of three truth values are no whole number of floats."""
    constants: dict[str, Any] = {
        "scale": np.array(0.05, np.float32),
        "zero": np.array(128, np.uint8),
        "weight": np.ones((33, 2), np.int8),
        "kept": np.array([True, False, True]),
        "mask": np.eye(2, 3, dtype=np.float32),
    }
    integer = ["q", "weight", "scale", "scale", "zero", ""]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("MatMulIntegerToFloat", integer, ["fc"], "fc", domain="com.microsoft"),
        helper.make_node("MatMul", ["fc", "mask"], ["wide"], "mask"),
        helper.make_node("Where", ["kept", "wide", "scale"], ["y"], "choice"),
    ]
    path = written(tmp_path / "linear.onnx", nodes, constants, inputs={"x": [1, 33]})
    assert [(op.name, op.int8, op.macs) for op in profile_model(path, runs=1).ops] == [
        ("fc", True, 66),
        ("mask", False, 6),
    ]
    file = read_onnx(path)
    assert not any(file.is_sum(node) for node in file.nodes)


def test_values_that_a_node_leaves_out_join_no_nodes() -> None:
    make = helper.make_node
    nodes = [
        make("SkipLayerNormalization", ["x", "x", "gamma"], ["norm", "", "", "sum"], "norm"),
        make("MatMulIntegerToFloat", ["q", "w", "s", "s", "", "zero", "b"], ["fc"], "fc"),
        make("Resize", ["norm", "", "sizes"], ["y"], "resize"),
    ]
    file = OnnxGraph(helper.make_model(helper.make_graph(nodes, "graph", [], [])))
    assert file.edges() == [(), (), (0,)]
    assert "" not in file.makers
    assert [node.name for node in file.after("norm")] == ["resize"]
    assert not [*file.after("")]


def test_padded_channels_are_not_counted(tmp_path: Path) -> None:
    """40 channels become 48 in ONNX Runtime's blocks of 16."""
    weight = np.random.default_rng(0).standard_normal((40, 1, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "weight"], ["y"], "depthwise", group=40, pads=[1, 1, 1, 1])]
    path = write_onnx(tmp_path / "depthwise.onnx", nodes, {"weight": weight}, x=["batch", 40, 8, 8], y=None)
    assert profile_model(path, runs=1).total_macs == 40 * 9 * 8 * 8


def test_a_scale_that_becomes_a_convolution_is_not_counted(tmp_path: Path) -> None:
    """ONNX Runtime makes depthwise 1x1 convolutions of scales, but only in the channel-blocked layout."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((16, 16, 3, 3)).astype(np.float32) for name in ("first", "second")}
    tensors["scale"] = rng.standard_normal((16, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["b"], "sigmoid"),
        helper.make_node("Mul", ["b", "scale"], ["c"], "scale"),
        helper.make_node("Conv", ["c", "second"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    path = write_onnx(tmp_path / "scaled.onnx", nodes, tensors, x=[1, 16, 8, 8], y=None)
    assert [(op.name, op.macs) for op in profile_model(path, runs=1).ops] == [
        ("first", 8 * 8 * 16 * 16 * 9),
        ("second", 8 * 8 * 16 * 16 * 9),
    ]


def test_a_node_made_by_the_optimizer_is_traced_to_the_file(tmp_path: Path) -> None:
    """MatMul and Add become one Gemm, whose name contains the MatMul's."""
    tensors = {"weight": np.ones((4, 3), np.float32) * 2, "bias": np.ones(3, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["p"], "head/fc"),
        helper.make_node("Add", ["p", "bias"], ["y"], "add"),
    ]
    path = write_onnx(tmp_path / "fused.onnx", nodes, tensors, x=[2, 4], y=[2, 3])
    (op,) = profile_model(path, runs=1).ops
    assert (op.name, op.kernel, op.macs, op.reason) == ("head/fc", "Gemm", 24, "not quantized in the file")
    (op,) = profile_model(path, runs=1, options={"disabled_optimizers": ["MatMulAddFusion"]}).ops
    assert op.kernel == "MatMul"


def test_branches_that_the_two_sessions_run_in_different_orders_keep_their_times() -> None:
    """The channel-blocked session names a convolution after its value, or after that of the activation in it."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["a"], "node_a"),
        make("Relu", ["a"], ["relu"], "node_relu"),
        make("Conv", ["x", "w"], ["b"], "node_b"),
    ]
    file = OnnxGraph(helper.make_model(helper.make_graph(nodes, "graph", [], [])))
    shapes = (1, 8, 4, 4), (8, 8, 1, 1)
    ran = [
        onnxruntime._Node(name, "Conv", shapes, shapes[0], ms) for name, ms in (("b_nchwc", 2.0), ("relu_nchwc", 1.0))
    ]
    shaped = [onnxruntime._Node(name, "Conv", shapes, shapes[0], 0.0) for name in ("node_a", "node_b_token_1")]
    for order in (shaped, shaped[::-1]):
        products = onnxruntime._products(ran, order, file)
        assert [(node.name, op.name, op.ms) for op, node in products] == [
            ("relu_nchwc", "node_a", 1.0),
            ("b_nchwc", "node_b", 2.0),
        ]


@pytest.mark.parametrize("content", [b"\x3a\xff\x01cut off", b"\xff" * 20, b"\x0b"])
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="it is"):
        read_onnx(path)
    with refuses(EngineError, path):
        profile_model(path)


# OpenVINO


def test_int8_that_is_computed_in_float_is_called_simulated(
    int8_profiles: Profiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO does this with convolutions on aarch64. Here no kernel's name counts as integer."""
    bundle, _ = int8_profiles["openvino"]
    monkeypatch.setattr(openvino, "INTEGER", re.compile("never"))
    measured = profile_bundle(bundle, threads=1, runs=1)
    assert measured.simulated
    assert measured.share_of_macs == 0
    assert any("OpenVINO has no integer kernel for it here" in (op.reason or "") for op in measured.ops)


# LiteRT


def test_kernels_count_to_the_operations_of_the_file() -> None:
    """The dequantizer that the second product's reads is before it, and a fused activation has no operation."""
    conv = tflite._Product("conv", "CONV_2D", 1, (True, True))
    kinds = ["QUANTIZE", "PAD", "CONV_2D", "DEQUANTIZE", "HARD_SWISH", "QUANTIZE", "CONV_2D", "ADD", "DEQUANTIZE"]
    file = [
        tflite._Operation(kind, (place - 1,) if place else (), 7, conv if kind == "CONV_2D" else None)
        for place, kind in enumerate(kinds)
    ]
    names = ["Convert (NC)", "Convolution (NHWC, QC8) IGEMM", "Convert (NC)", "HardSwish (NC)", "Clamp (NC)"]
    names += ["Convert (NC)", "Fully Connected (NC, QS8, QC8W) GEMM", "Add (ND)", "Clamp (NC)", "Convert (NC)"]
    ran = tflite._ran(file, [tflite._Kernel(name, float(1 << place)) for place, name in enumerate(names)])
    assert [op.ms for op in ran] == [1, 0, 0, 4, 8 + 16, 32, 0, 128 + 256, 512]
    assert owners(ran) == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert [op.converted for op in ran] == [7, 0, 0, 7, 0, 7, 0, 0, 7]


@pytest.mark.parametrize(
    ("kernel", "int8", "expected"),
    [
        ("Fully Connected (NC, QS8, QC8W) GEMM", (True, True), True),
        ("Fully Connected (NC, QD8, F32, QC8W) GEMM", (False, True), True),
        ("Fully Connected (NC, F32, QC8W) GEMM", (False, True), False),
        ("Fully Connected (NC, F32) GEMM", (False, False), False),
        ("FULLY_CONNECTED", (False, True), True),
        ("FULLY_CONNECTED", (False, False), False),
    ],
)
def test_the_type_of_the_activations_tells_an_integer_kernel(
    kernel: str, int8: tuple[bool, bool], expected: bool
) -> None:
    product = tflite._Product("fc", "FULLY_CONNECTED", 1, int8)
    assert tflite._Kernel(kernel, 1.0).int8(product) is expected


@pytest.mark.parametrize("kernels", [[], [tflite._Kernel("Fully Connected (NC, F32) GEMM", 1.0)]])
def test_without_litert_s_profiler_the_method_admits_inference(
    int8_profiles: Profiles, monkeypatch: pytest.MonkeyPatch, kernels: list[Any]
) -> None:
    bundle, observed = int8_profiles["tflite"]
    monkeypatch.setattr(tflite, "_kernels", lambda *_: (kernels, "" if kernels else "this package has none"))
    measured = profile_bundle(bundle, threads=1, runs=1)
    assert measured.share_of_macs == observed.share_of_macs
    assert measured.float_layers == observed.float_layers
    assert "not observed while it ran" in measured.method
    assert ("can't be matched" if kernels else "this package has none") in measured.method
    assert (measured.time_by_kind is None) is not bool(kernels)
    assert all(op.ms is None for op in measured.ops)


@pytest.mark.parametrize(
    ("done", "why"),
    [
        (SimpleNamespace(returncode=1, stdout="", stderr="INFO\nLiteRtCreateX gave status 3\n"), "gave status 3"),
        (SimpleNamespace(returncode=-11, stdout="", stderr="INFO\n"), "its process ended with status -11"),
        (SimpleNamespace(returncode=0, stdout="[[]]\n", stderr=""), "it named no kernels"),
        (
            SimpleNamespace(returncode=0, stdout='[[["a", 1]], [["b", 1]]]\n', stderr=""),
            "or different ones in each run",
        ),
    ],
)
def test_a_failing_profiler_gives_a_reason_instead_of_an_error(
    monkeypatch: pytest.MonkeyPatch, done: Any, why: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    kernels, reason = tflite._kernels(Path("model.tflite"), 1, 1)
    assert kernels == []
    assert why in reason


@pytest.mark.parametrize(
    ("operation", "kernel", "expected"),
    [
        ("CONV_2D", "Fully Connected (NC, QS8, QC8W) GEMM", True),  # a convolution of one pixel
        ("CONV_2D", "Convolution (NHWC, QC8) IGEMM", True),
        ("DEPTHWISE_CONV_2D", "Fully Connected (NC, QS8, QC8W) GEMM", False),
        ("FULLY_CONNECTED", "Convolution (NHWC, QC8) IGEMM", False),
        ("CONV_2D", "Convolution (NHWC, F32) IGEMM", False),
    ],
)
def test_a_kernel_is_paired_with_a_product_that_it_can_run(operation: str, kernel: str, expected: bool) -> None:
    assert tflite._Kernel(kernel, 1.0).runs(tflite._Product("layer", operation, 1, (True, True))) is expected


def test_layers_get_the_module_path_in_the_name_of_a_tensor() -> None:
    name = "timm.ConvNeXt/torch.nn.Sequential_stages/timm.ConvNeXtBlock_0/torch.nn.Conv2d_conv_dw;3"
    assert tflite._layer(name) == "stages.0.conv_dw"
    assert tflite._layer(f"timm.ConvNeXt;;{name}") == "stages.0.conv_dw"
    assert tflite._layer("serving_default_output_0") == "serving_default_output_0"


# Wrong use


def test_wrong_arguments_are_refused(tmp_path: Path, make_bundle: MakeBundle) -> None:
    with refuses(UsageError, "model.pt") as caught:
        profile_model(tmp_path / "model.pt")
    assert caught.value.valid == ".xml, .onnx, .tflite"
    with refuses(InputError, "model.onnx"):
        profile_model(tmp_path / "model.onnx")
    bundle = read_bundle(make_bundle("onnx"))
    with refuses(UsageError, "runs"):
        profile_bundle(bundle, runs=0)
    with refuses(UsageError, "threads"):
        profile_model(bundle.model_path, threads=0)


def test_an_input_without_a_fixed_size_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    path = write_onnx(tmp_path / "free.onnx", nodes, {}, x=[1, 3, "height", 8], y=None)
    with refuses(InputError, "'x'", [1, 3, None, 8]):
        profile_model(path)


def test_importing_it_loads_no_runtime() -> None:
    modules = ", ".join(target.profiler_module for target in RUNTIMES.values())
    heavy = ("torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "nncf")
    imports = f"import sys, edgekit.runtime.profile, {modules}"
    code = f"{imports}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
