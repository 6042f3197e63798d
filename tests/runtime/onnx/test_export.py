"""What torch's exporter to ONNX refuses is reported with the cause, not only the step that failed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import CompileError
from edgekit.runtime.onnx.backend import Backend
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86


class Unsupported(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = torch.special.bessel_j0(x)
        return logits


def test_the_cause_is_reported(tmp_path: Path) -> None:
    graph = export_graph(Unsupported(), (1, 3, 4, 4))
    with pytest.raises(CompileError, match=r"refused the graph: No ONNX function found for .*bessel_j0"):
        Backend().compile(graph, tmp_path, METADATA, X86)
    assert list(tmp_path.iterdir()) == []
