"""Quantizers are read from the Q/DQ of a graph, and changed on both."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.compiler.graph import Q, operand, trace
from edgekit.compiler.layers import (
    DEQUANTIZE,
    QUANTIZE,
    Quantizer,
    dense_layers,
    int8_weight,
    owners_of,
    quantizer_of,
    quantizers,
    set_grid,
    set_int8_weights,
    set_owners,
    weight_quantizer_of,
)

GRID = (0.5, -3, -128, 127, torch.int8)


class Quantized(nn.Module):
    """A linear layer with Q/DQ at its input and, along an axis, at its weight; a second layer in float."""

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.axis = nn.Parameter(torch.randn(4, 4)), axis
        self.scale, self.zero = nn.Buffer(torch.full((4,), 0.05)), nn.Buffer(torch.zeros(4, dtype=torch.int64))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = Q.dequantize_per_tensor.default(Q.quantize_per_tensor.default(x, *GRID), *GRID)
        per_channel = (self.scale, self.zero, self.axis, -127, 127, torch.int8)
        levels = Q.quantize_per_channel.default(self.weight, *per_channel)
        y: Tensor = nn.functional.linear(x, Q.dequantize_per_channel.default(levels, *per_channel))
        logits: Tensor = self.head(y) * y[..., :3]
        return logits


@pytest.fixture
def graph() -> GraphModule:
    return trace(Quantized().requires_grad_(False), (1, 4))


def test_a_quantizer_of_an_activation(graph: GraphModule) -> None:
    (quantizer,) = quantizers(graph)
    assert quantizer.node.target is QUANTIZE
    assert quantizer.source.op == "placeholder"
    assert quantizer.grid == GRID
    assert quantizer.representable_range == ((-128 + 3) * 0.5, (127 + 3) * 0.5)
    (dequantize,) = quantizer.node.users
    assert quantizer_of(quantizer.node) == quantizer_of(dequantize) == quantizer
    for other in (quantizer.source, None, 0.5):
        assert quantizer_of(other) is None


def test_a_quantizer_of_a_weight(graph: GraphModule) -> None:
    first, second = dense_layers(graph)
    quantizer = int8_weight(first.node)
    assert quantizer is not None
    assert (quantizer.axis, quantizer.low, quantizer.high, quantizer.dtype) == (0, -127, 127, torch.int8)
    assert weight_quantizer_of(first.weight) == weight_quantizer_of(quantizer.node) == quantizer
    module = Quantized()
    weight, scale = quantizer.weight_and_scale(graph)
    assert torch.equal(weight, module.weight)
    assert torch.equal(scale, module.scale)
    expected = (module.weight / 0.05).round().clamp(-127, 127) * 0.05
    torch.testing.assert_close(quantizer.rounded(graph), expected.detach())
    assert int8_weight(second.node) is None
    assert int8_weight(quantizer.node) is None


def test_a_scale_for_each_input_is_no_int8_weight() -> None:
    graph = trace(Quantized(axis=1).requires_grad_(False), (1, 4))
    first, _ = dense_layers(graph)
    assert int8_weight(first.node) is None
    quantizer = weight_quantizer_of(first.weight)
    assert quantizer is not None
    assert quantizer.axis == 1


def test_another_grid_is_that_of_both_nodes(graph: GraphModule) -> None:
    (quantizer,) = quantizers(graph)
    set_grid(quantizer, (0.25, 4, -128, 127, torch.int8))
    (changed,) = quantizers(graph)
    assert isinstance(changed, Quantizer)
    assert (changed.scale, changed.zero_point) == (0.25, 4)
    (dequantize,) = changed.node.users
    assert dequantize.target is DEQUANTIZE
    assert dequantize.args[1:] == changed.node.args[1:]
    assert operand(dequantize) is changed.node


def test_other_weights_and_scales(graph: GraphModule) -> None:
    first, _ = dense_layers(graph)
    set_int8_weights(graph, first.node, torch.eye(4), torch.full((4,), 1 / 127))
    quantizer = int8_weight(first.node)
    assert quantizer is not None
    torch.testing.assert_close(quantizer.rounded(graph), torch.eye(4))


def test_owners_are_known_where_they_were_written(graph: GraphModule) -> None:
    (dequantize,) = next(quantizers(graph)).node.users
    with pytest.raises(KeyError):
        owners_of(dequantize)
    set_owners(dequantize, ["a", "b"])
    assert owners_of(dequantize) == {"a", "b"}
