"""Float models whose weights the converter could store wrongly."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.compiler.export import export_graph
from edgekit.runtime.tflite.backend import Backend
from edgekit.support.libraries import quiet
from tests.helpers.litert import run_file
from tests.helpers.tiny import X86


def test_transposed_weights_are_stored_as_they_are(tmp_path: Path) -> None:
    """As in networks from ONNX files. The converter's own copies of such weights are freed too early, mostly."""
    torch.manual_seed(0)
    layers = [nn.Linear(288, 96) if index % 2 else nn.Linear(96, 288) for index in range(12)]
    for layer in layers:
        layer.weight = nn.Parameter(torch.randn(layer.in_features, layer.out_features).T / layer.in_features**0.5)
    network = nn.Sequential(*layers).eval()
    image = torch.randn(1, 96)
    with quiet(), torch.no_grad():
        expected = network(image).numpy()
        Backend().compile(export_graph(network, image.shape), tmp_path, "{}", X86)
    logits = run_file(tmp_path / "model.tflite", [image.numpy()])
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
