"""A reduction over several axes becomes one reduction per axis, with the same values."""

import numpy as np
import pytest

from edgekit.compat.openvino import openvino
from edgekit.runtime.openvino.axes import ops, split_reductions


def compiled(model: openvino.Model, x: np.ndarray) -> np.ndarray:
    return np.array(openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0])


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
    sizes = [
        op.input_value(1).get_node().data.size for op in model.get_ops() if op.get_type_name().startswith("Reduce")
    ]
    assert sizes == [1] * len(axes)
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
