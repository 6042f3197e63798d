"""ONNX Runtime computes each layer of an INT8 bundle as the file and the manifest say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edgekit.config.recipes import Recipe
from edgekit.runtime.backend import Artifact
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.onnx.backend import QUANTIZES_WEIGHTS, Backend, fold, save, settle
from edgekit.runtime.profile import Profile, profile_model
from edgekit.support.libraries import quiet
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86

SHAPE = (1, 3, 16, 16)
node = helper.make_node


class Convolutions(nn.Module):
    """A convolution of each kind, one of them after a padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 8, 2, 2)
        self.wide, self.deep = nn.Conv2d(8, 16, 3, bias=False), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(torch.relu(self.up(torch.relu(self.stem(x)))), (1, 1, 1, 1))
        x = torch.relu(self.point(torch.relu(self.deep(self.wide(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def compiled(recipe: Recipe, folder: Path) -> tuple[Artifact, Profile, NDArray[np.float32], Tensor]:
    """A bundle's files, their profile, and the logits of an image, from ONNX Runtime and from torch in float."""
    import onnxruntime

    torch.manual_seed(0)
    module = Convolutions().eval()
    images = [np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32) for seed in range(4)]
    with quiet(), torch.no_grad():
        expected = module(torch.from_numpy(images[0]))
        artifact = Backend().compile(
            quantize(export_graph(module, SHAPE), images, recipe, "onnx"), folder, METADATA, X86
        )
    disabled = artifact.session["disabled_optimizers"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), disabled_optimizers=disabled)
    logits = session.run(None, {"image": images[0]})[0]
    return artifact, profile_model(folder / "model.onnx", runs=1, options=artifact.session), logits, expected


def kernels(ran: Profile) -> list[str]:
    return [op.kernel for op in ran.ops]


def test_layers_without_an_integer_kernel_are_stored_in_float(tmp_path: Path) -> None:
    """A convolution whose output isn't quantized has none. What it alone reads isn't quantized either."""
    recipe = Recipe.load("default")
    table = replace(recipe.targets["onnx"], quantize_outputs=False, quantize_residuals=False)
    artifact, ran, logits, expected = compiled(replace(recipe, targets={"onnx": table}), tmp_path)
    assert artifact.float_layers == {"stem", "point"}
    assert kernels(ran) == ["Conv", "ConvTranspose", "QLinearConv", "QLinearConv", "Conv", "MatMulIntegerToFloat"]
    model = onnx.load(tmp_path / "model.onnx")
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 4}
    in_float = [conv.input[1] in weights for conv in model.graph.node if conv.op_type == "Conv"]
    assert in_float == [True, False, False, True]
    np.testing.assert_allclose(logits, expected, atol=0.02)
    assert not ran.simulated


def test_layers_that_the_recipe_keeps_in_float_stay_in_float_between_int8_ones(tmp_path: Path) -> None:
    """ONNX Runtime would quantize their weights with one scale for all channels."""
    recipe = replace(Recipe.load("default"), float_layers=("deep",))
    artifact, ran, logits, expected = compiled(recipe, tmp_path)
    assert artifact.float_layers == frozenset()
    assert QUANTIZES_WEIGHTS in artifact.session["disabled_optimizers"]
    assert [op.int8 for op in ran.ops] == [True, False, True, False, True, True]
    assert {op.kernel for op in ran.ops if op.int8} == {"QLinearConv", "MatMulIntegerToFloat"}
    np.testing.assert_allclose(logits, expected, atol=0.05)


def test_onnx_runtime_quantizes_biases_where_no_float_layer_is_between_int8_ones(tmp_path: Path) -> None:
    """The files of most networks stay as they are."""
    recipe = replace(Recipe.load("default"), float_layers=("wide",))
    artifact, _, _, _ = compiled(recipe, tmp_path)
    assert artifact.session["disabled_optimizers"] == ["MatMulAddFusion", "BiasGeluFusion"]


def test_both_weights_and_biases_become_float_where_there_is_no_kernel(tmp_path: Path) -> None:
    """The layer before it is in float between INT8 values, so that the file has biases in int32."""
    random = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {"scale": np.array(0.02, np.float32), "zero": np.array(128, np.uint8)}
    nodes, value = [], "x"
    for name, weight in (("first", np.int8), ("between", np.float32), ("last", np.int8)):
        constants[f"{name}_weight"] = random.integers(-9, 9, (4, 4, 1, 1)).astype(weight)
        constants[f"{name}_bias"] = random.random(4, np.float32)
        weights = f"{name}_weight"
        if weight is np.int8:
            constants[f"{name}_scale"] = np.full(4, 0.01, np.float32)
            weights = f"{name}_float"
            nodes.append(node("DequantizeLinear", [f"{name}_weight", f"{name}_scale"], [weights], name=weights, axis=0))
        nodes += [
            node("QuantizeLinear", [value, "scale", "zero"], [f"{name}_levels"], name=f"{name}_q"),
            node("DequantizeLinear", [f"{name}_levels", "scale", "zero"], [f"{name}_in"], name=f"{name}_dq"),
            node("Conv", [f"{name}_in", weights, f"{name}_bias"], [f"{name}_out"], name=name),
        ]
        value = f"{name}_out"
    model = model_of(nodes, constants, [1, 4, 5, 5], value)
    feeds = {"x": random.random((1, 4, 5, 5), np.float32)}
    expected = ReferenceEvaluator(model).run(None, feeds)[0]
    saved = settle(model, tmp_path / "model.onnx", [], lambda changed: save(changed, tmp_path))
    assert saved.folded == {"last_weight", "last_out_bias_int32"}
    assert saved.disabled_optimizers == (QUANTIZES_WEIGHTS,)
    ran = profile_model(tmp_path / "model.onnx", runs=1, options={"disabled_optimizers": saved.disabled_optimizers})
    assert [op.int8 for op in ran.ops] == [True, False, False]
    logits = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx")).run(None, feeds)[0]
    np.testing.assert_allclose(logits, expected, atol=0.02)


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], shape: list[int], out: str = "y"
) -> onnx.ModelProto:
    """A model of one input x of this shape."""
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    sink = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [source], [sink], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_folded_weights_are_what_onnx_defines(axis: int | None, zero: bool) -> None:
    random = np.random.default_rng(0)
    size = () if axis is None else (3, 4)[axis]
    constants: dict[str, NDArray[Any]] = {"levels": random.integers(-127, 128, (3, 4)).astype(np.int8)}
    constants["scale"] = random.random(size, np.float32) + np.float32(0.1)
    if zero:
        constants["zero"] = random.integers(-9, 9, size).astype(np.int8)
    nodes = [
        node("DequantizeLinear", [*constants], ["weight"], axis=axis),
        node("MatMul", ["x", "weight"], ["y"]),
    ]
    model = model_of(nodes, constants, [2, 3])
    feeds = {"x": random.random((2, 3), np.float32)}
    expected = ReferenceEvaluator(model).run(None, feeds)[0]
    folded = fold(model, {"levels"})
    assert [each.op_type for each in folded.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["weight"]
    np.testing.assert_array_equal(ReferenceEvaluator(folded).run(None, feeds)[0], expected)


def test_the_manifest_names_the_layers_and_the_reason(finished_run: Path) -> None:
    """The first convolution of this ConvNeXt V2 has no quantized output."""
    layers = read_bundle(finished_run / "onnx-int8").manifest.layers
    assert {layer["name"]: layer["reason"] for layer in layers if "reason" in layer} == {
        "stem.0": "ONNX Runtime has no integer kernel for it"
    }
    assert not next(layer["int8"] for layer in layers if layer["name"] == "stem.0")
