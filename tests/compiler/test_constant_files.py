"""Large constants of graphs in mapped files: the same values, and no memory of the process."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.memory import memory_of
from edgekit.compiler import constant_files
from edgekit.compiler.constant_files import constants_in, stored
from edgekit.compiler.rewrites import rewrite
from edgekit.errors import OutputError
from tests.helpers.graphs import export_graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.int64, torch.bfloat16])
def test_values_dtypes_and_shapes_stay(dtype: torch.dtype, tmp_path: Path) -> None:
    value = torch.arange(3 << 20).view(1024, -1).to(dtype).T
    with constants_in(tmp_path):
        mapped = stored(value)
    assert torch.equal(mapped, value)
    assert (mapped.dtype, mapped.shape) == (value.dtype, value.shape)
    assert mapped.is_contiguous()
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_large_constants_take_no_memory(tmp_path: Path) -> None:
    value = torch.ones(50_000_000, dtype=torch.uint8)
    before = memory_of(os.getpid())
    with constants_in(tmp_path):
        held = [stored(value) for _ in range(4)]
        os.sync()
        small = stored(value[:100])
    assert memory_of(os.getpid()) < before + 20_000_000
    assert sum(int(each.sum()) for each in (*held, small)) == 200_000_100
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    held.append(stored(value))
    assert memory_of(os.getpid()) > before + 40_000_000, "after the block, constants are in memory again"


def test_rewrites_put_new_weights_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constant_files, "LARGE_BYTES", 1000)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 1)).eval()
    with constants_in(tmp_path), torch.no_grad():
        graph = rewrite(export_graph(network, (1, 3, 8, 8)), ["channels-last"]).graph
        x = torch.randn(1, 3, 8, 8)
        torch.testing.assert_close(graph(x), network(x))
    sizes = sorted(value.nbytes for value in graph.buffers())
    assert sum(size >= 1000 for size in sizes) == Path("/proc/self/maps").read_text().count(str(tmp_path)) == 2


def test_a_disk_that_refuses_is_an_output_error(tmp_path: Path) -> None:
    with constants_in(tmp_path / "gone"), pytest.raises(OutputError, match="gone"):
        stored(torch.zeros(1 << 20))
