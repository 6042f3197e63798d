"""Small ONNX files, written without edgekit."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

SIDE = 16


class Mixed(nn.Module):
    """A classifier [N,3,16,16] -> [N,5] of convolutions, pooling, one block of attention, and an optional softmax."""

    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        query, key, value = self.qkv(self.norm(x)).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) / 2).softmax(-1)
        x = x + self.proj((weights @ value).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        logits: Tensor = self.head(x[:, 0])
        return logits.softmax(1) if self.softmax else logits


def exported(path: Path, module: nn.Module, dynamic: bool = True, size: Sequence[int] = (3, SIDE, SIDE)) -> Path:
    """The file that torch exports, with any batch or with a batch of 1."""
    batch: Any = ({0: torch.export.Dim("batch")},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2 if dynamic else 1, *size),),
            path,
            dynamo=True,
            dynamic_shapes=batch,
            external_data=False,
            verbose=False,
        )
    return path


def written(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any],
    opset: int = 17,
    inputs: dict[str, Sequence[Any]] | None = None,
    kind: int = onnx.TensorProto.FLOAT,
) -> Path:
    """A file with these nodes, whose last output is the graph's; inputs are those with a shape, by default `image`."""
    shapes = inputs or {"image": [1, 3, SIDE, SIDE]}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    versions = {"": opset} | {node.domain: 1 for node in nodes if node.domain}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*version) for version in versions.items()])
    onnx.save(model, path)
    return path
