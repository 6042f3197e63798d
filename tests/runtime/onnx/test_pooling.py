"""Means over height and width become poolings, and other means stay."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekit.runtime.onnx.backend import Backend
from edgekit.support.libraries import quiet
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import X86


class Mean(nn.Module):
    """A mean over some axes, and a convolution, so that the network has weights."""

    def __init__(self, axes: tuple[int, ...], keep: bool) -> None:
        super().__init__()
        self.axes, self.keep, self.first = axes, keep, nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.first(x).mean(self.axes, self.keep)
        return means


@pytest.mark.parametrize(
    ("axes", "keep", "kind"),
    [
        ((2, 3), True, "GlobalAveragePool"),
        ((-1, -2), True, "GlobalAveragePool"),
        ((2, 3), False, "ReduceMean"),
        ((1,), True, "ReduceMean"),
        ((1, 2), True, "ReduceMean"),
    ],
)
def test_means(axes: tuple[int, ...], keep: bool, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Mean(axes, keep).eval(), torch.randn(1, 3, 6, 8)
    with quiet(), torch.no_grad():
        Backend().compile(export_graph(network, tuple(x.shape)), tmp_path, "{}", X86)
        expected = network(x).numpy()
    model = onnx.load(tmp_path / "model.onnx")
    assert Counter(node.op_type for node in model.graph.node) == {"Conv": 1, kind: 1}
    assert len(model.graph.initializer) == (2 if kind == "GlobalAveragePool" else 3)
    (logits,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"image": x.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-6)
