"""Weights are quantized once for many images, as far as the memory for them goes."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter

from edgekit.compiler.execution.cached_weights import CachedWeightInterpreter
from edgekit.compiler.export import trace
from edgekit.compiler.graph import Q

CHANNELS = (0, -127, 127, torch.int8)


class Quantized(nn.Module):
    """Two linear layers whose weights have Q/DQ."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = nn.ParameterList(torch.randn(8, 8) for _ in range(2))
        self.scales, self.zeros = nn.Buffer(torch.full((8,), 0.03)), nn.Buffer(torch.zeros(8, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            levels = Q.quantize_per_channel.default(weight, self.scales, self.zeros, *CHANNELS)
            x = nn.functional.linear(x, Q.dequantize_per_channel.default(levels, self.scales, self.zeros, *CHANNELS))
        return x


@pytest.mark.parametrize(("memory", "runs"), [(2 * 4 * 64, 2), (4 * 64, 1 + 3), (0, 3 + 3)])
def test_weights_are_quantized_once_where_memory_allows(
    memory: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: Counter[str] = Counter()

    def call(self: Interpreter, target: Any, args: Any, kwargs: Any) -> Any:
        ran[str(target)] += 1
        return Interpreter.call_function(self, target, args, kwargs)

    monkeypatch.setattr(CachedWeightInterpreter, "call_function", call)
    monkeypatch.setattr("edgekit.compiler.execution.cached_weights.CACHED_BYTES", memory)
    graph = trace(Quantized().requires_grad_(False), (1, 8))
    interpreter = CachedWeightInterpreter(graph)
    for image in torch.randn(3, 1, 8):
        assert torch.equal(interpreter.run(image), graph(image))
    assert ran["quantized_decomposed.quantize_per_channel.default"] == runs
    assert ran["quantized_decomposed.dequantize_per_channel.default"] == runs
