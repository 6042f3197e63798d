"""The noise of each kind of quantizer alone is less than that of all of them."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from benchmarks.noise import QUANTIZE, kind_of, logits
from edgekit.config.recipes import load_recipe
from edgekit.measure.accuracy import snr_db
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph


class Residual(nn.Module):
    """A convolution with ReLU, a sum, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.branch(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def test_kinds() -> None:
    torch.manual_seed(0)
    network = Residual().eval()
    random = np.random.default_rng(0)
    images = [random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(4)]
    recipe = replace(load_recipe("resnet"), weight_rounding="nearest")
    graph = quantize(export_graph(network, (1, 3, 16, 16)), images, recipe, "onnx")
    kinds = {node: kind_of(node) for node in graph.graph.nodes if node.target in QUANTIZE}
    assert set(kinds.values()) == {"weights", "image", "outputs of layers", "outputs of activations"}
    assert sum(kind == "weights" for kind in kinds.values()) == 3
    with torch.no_grad():
        exact = np.concatenate([network(torch.from_numpy(image)).numpy() for image in images])
    np.testing.assert_allclose(logits(graph, images, ()), exact, rtol=1e-4, atol=1e-5)
    everything = snr_db(exact, logits(graph, images, kinds))
    for kind in set(kinds.values()):
        alone = snr_db(exact, logits(graph, images, [node for node, its in kinds.items() if its == kind]))
        assert everything < alone < 100, kind
