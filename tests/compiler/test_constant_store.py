"""Large constants of graphs in mapped files: the same values, and no memory of the process."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.machine import memory_of
from edgekit.compiler.graph import MEMORY, MappedFiles, copy_sharing, keep_constants_in, store_of, trace
from edgekit.compiler.rewrites import rewrite
from edgekit.compiler.simplify import simplify
from edgekit.config.recipes import Recipe
from edgekit.errors import OutputError
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64, torch.bfloat16])
def test_values_dtypes_and_shapes_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    value = torch.arange(3 << 20).view(1024, -1).to(dtype).T
    mapped = MappedFiles(tmp_path).keep(value)
    assert torch.equal(mapped, value)
    assert (mapped.dtype, mapped.shape) == (value.dtype, value.shape)
    assert mapped.is_contiguous()
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_large_constants_take_no_memory(tmp_path: Path) -> None:
    value = torch.ones(50_000_000, dtype=torch.uint8)
    before = memory_of(os.getpid())
    store = MappedFiles(tmp_path)
    held = [store.keep(value) for _ in range(4)]
    os.sync()
    small = store.keep(value[:100])
    assert memory_of(os.getpid()) < before + 20_000_000
    assert sum(int(each.sum()) for each in (*held, small)) == 200_000_100
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    held.append(MEMORY.keep(value))
    assert memory_of(os.getpid()) > before + 40_000_000


def test_rewrites_put_new_weights_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.compiler.graph.LARGE_BYTES", 1000)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 1)).eval()
    traced = trace(network, (1, 3, 8, 8))
    with torch.no_grad():
        graph = rewrite(simplify(traced, tmp_path), ["channels-last"]).graph
        x = torch.randn(1, 3, 8, 8)
        torch.testing.assert_close(graph(x), network(x))
    sizes = sorted(value.nbytes for value in graph.buffers())
    assert sum(size >= 1000 for size in sizes) == Path("/proc/self/maps").read_text().count(str(tmp_path)) == 2


def test_a_disk_that_refuses_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="gone"):
        MappedFiles(tmp_path / "gone").keep(torch.zeros(1 << 20))


def test_copies_and_quantized_graphs_have_the_store_of_their_graph(tmp_path: Path) -> None:
    graph = export_graph(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)), (1, 3, 8, 8))
    assert store_of(graph) == MEMORY
    keep_constants_in(graph, MappedFiles(tmp_path))
    assert store_of(copy_sharing(graph)) == MappedFiles(tmp_path)
    images = [np.random.default_rng(0).random((1, 3, 8, 8), np.float32)] * 2
    quantized = quantize(graph, images, Recipe.load("default"), "onnx")
    assert store_of(quantized) == MappedFiles(tmp_path)
