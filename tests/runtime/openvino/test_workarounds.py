"""Reductions become others with the same values, and what OpenVINO computes wrongly or refuses is shielded."""

import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.compat.openvino import openvino
from edgekit.config.runtimes import DeviceClass
from edgekit.runtime.openvino.backend import Backend
from edgekit.runtime.openvino.engine import compile_for_cpu
from edgekit.runtime.openvino.workarounds import ops, shield_extremes, shield_reshapes, split_reductions
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA


def compiled(model: openvino.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array(openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0])


def axes_of_reductions(model: openvino.Model) -> list[int]:
    """Number of axes of each reduction."""
    return [op.input_value(1).get_node().data.size for op in model.get_ops() if op.get_type_name().startswith("Reduce")]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [0, 1, 3], [1, 2]])
@pytest.mark.parametrize("kind", ["l1", "l2", "max", "mean", "min", "prod", "sum"])
def test_splitting_keeps_the_values(kind: str, axes: list[int], keep: bool) -> None:
    parameter = ops.parameter([2, 3, 4, 5], openvino.Type.f32)
    reduced = getattr(ops, f"reduce_{kind}")(parameter, ops.constant(axes, dtype="int64"), keep)
    reduced.set_friendly_name("norm")
    model = openvino.Model([ops.relu(reduced)], [parameter])
    x = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3, 4, 5)).astype(np.float32)
    before = compiled(model, x)
    assert split_reductions(model) == 1
    model.validate_nodes_and_infer_types()
    assert axes_of_reductions(model) == [1] * len(axes)
    assert "norm" in [op.get_friendly_name() for op in model.get_ops()]
    after = compiled(model, x)
    assert after.shape == before.shape
    assert np.allclose(after, before, rtol=1e-5)
    assert split_reductions(model) == 0


def test_other_reductions_are_not_changed() -> None:
    parameter = ops.parameter([2, 3, 4, 5], openvino.Type.f32)
    axes = ops.parameter([2], openvino.Type.i64)
    one = ops.reduce_mean(parameter, ops.constant([1], dtype="int64"), True)
    model = openvino.Model([one, ops.reduce_sum(parameter, axes, False)], [parameter, axes])
    assert split_reductions(model) == 0


class Norm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm: torch.Tensor = torch.linalg.vector_norm(x, 2, (2, 3))
        return norm


def test_only_files_for_arm_are_split_and_others_when_they_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes, logits = {}, {}
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    for name in ("x86-64-v3", "raspberry-pi-5"):
        graph = export_graph(Norm().eval(), x.shape)
        (tmp_path / name).mkdir()
        Backend().compile(graph, tmp_path / name, METADATA, DeviceClass.load(name))
        axes[name] = axes_of_reductions(openvino.Core().read_model(tmp_path / name / "model.xml"))
    assert axes == {"x86-64-v3": [2], "raspberry-pi-5": [1, 1]}
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        model = openvino.Core().read_model(tmp_path / "x86-64-v3" / "model.xml")
        logits[machine] = compile_for_cpu(model, {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
        assert axes_of_reductions(model) == ([2] if machine == "x86_64" else [1, 1])
    assert np.allclose(logits["x86_64"], logits["aarch64"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["max", "min"])
def test_only_shielded_extremes_are_quantized_rightly(kind: str) -> None:
    """OpenVINO quantizes a result of 0 to 4 in the reduction. Once it is right, `shield_extremes` can be deleted."""
    parameter = ops.parameter([1, 32, 8, 8], openvino.Type.f32)
    reduced = getattr(ops, f"reduce_{kind}")(parameter, ops.constant([2, 3], dtype="int64"), False)
    quantized = ops.fake_quantize(reduced, *(ops.constant(np.float32(bound)) for bound in (0, 4, 0, 4)), 256)
    levels = np.random.default_rng(0).integers(-64, 65, (32, 8)).astype(np.int8)
    weights = ops.multiply(ops.convert(ops.constant(levels), openvino.Type.f32), ops.constant(np.float32(0.01)))
    model = openvino.Model([ops.matmul(quantized, weights, False, False)], [parameter])
    x = np.random.default_rng(1).uniform(0.5, 3, (1, 32, 8, 8)).astype(np.float32)
    extremes = getattr(np, kind)(x, axis=(2, 3))
    expected = np.round(extremes * 255 / 4) * 4 / 255 @ (levels * np.float32(0.01))
    if platform.machine() == "x86_64":
        assert not np.allclose(compiled(model, x), expected, atol=0.05)
    assert shield_extremes(model) == 1
    assert np.allclose(compiled(model, x), expected, atol=1e-3)


LEVELS = np.random.default_rng(0).integers(-64, 65, (8, 16)).astype(np.int8)
"""Products of two of them and of uint8 inputs fit into 16 bits, as processors without VNNI add them."""
SCALES = np.linspace(0.01, 0.02, 8, dtype=np.float32)[:, None]


def reshaped(shape: list[int], to: list[int], bias: bool = False) -> openvino.Model:
    """A linear layer in INT8 from 16 to 8 channels, and a reshape of its output."""
    parameter = ops.parameter(shape, openvino.Type.f32)
    quantized = ops.fake_quantize(parameter, *(ops.constant(np.float32(bound)) for bound in (0, 255, 0, 255)), 256)
    weights = ops.multiply(ops.convert(ops.constant(LEVELS), openvino.Type.f32), ops.constant(SCALES))
    product = ops.matmul(quantized, weights, False, True)
    if bias:
        product = ops.add(product, ops.constant(np.ones(8, np.float32)))
    return openvino.Model([ops.reshape(product, ops.constant(to, dtype="int64"), False)], [parameter])


@pytest.mark.parametrize(("shape", "to"), [([1, 24, 16], [1, 24, 8, 1]), ([1, 4, 5, 16], [1, 4, 5, 8, 1])])
def test_only_shielded_products_load(shape: list[int], to: list[int]) -> None:
    """Once OpenVINO loads such a model, `shield_reshapes` can be deleted."""
    x = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)
    with pytest.raises(RuntimeError, match="Reshape"):
        compiled(reshaped(shape, to), x)
    model = reshaped(shape, to)
    assert shield_reshapes(model) == 1
    np.testing.assert_allclose(compiled(model, x), (x @ (LEVELS * SCALES).T).reshape(to), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "to", "bias"), [([1, 24, 16], [1, 24, 8, 1], True), ([1, 24, 16], [1, 24, 2, 4], False)]
)
def test_other_reshapes_stay(shape: list[int], to: list[int], bias: bool) -> None:
    assert shield_reshapes(reshaped(shape, to, bias)) == 0
