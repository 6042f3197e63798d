"""A product that only gets further axes is shielded from OpenVINO's low-precision passes."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.compat.openvino import openvino
from edgekit.runtime.openvino.reshapes import ops, shield_reshapes

LEVELS = np.random.default_rng(0).integers(-127, 128, (8, 16)).astype(np.int8)
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


def output(model: openvino.Model, x: NDArray[np.float32]) -> Any:
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]


@pytest.mark.parametrize(("shape", "to"), [([1, 24, 16], [1, 24, 8, 1]), ([1, 4, 5, 16], [1, 4, 5, 8, 1])])
def test_only_shielded_products_load(shape: list[int], to: list[int]) -> None:
    """Once OpenVINO loads such a model, `shield_reshapes` can be deleted."""
    x = np.random.default_rng(1).integers(0, 256, shape).astype(np.float32)
    with pytest.raises(RuntimeError, match="Reshape"):
        output(reshaped(shape, to), x)
    model = reshaped(shape, to)
    assert shield_reshapes(model) == 1
    np.testing.assert_allclose(output(model, x), (x @ (LEVELS * SCALES).T).reshape(to), rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "to", "bias"), [([1, 24, 16], [1, 24, 8, 1], True), ([1, 24, 16], [1, 24, 2, 4], False)]
)
def test_other_reshapes_stay(shape: list[int], to: list[int], bias: bool) -> None:
    assert shield_reshapes(reshaped(shape, to, bias)) == 0
