"""The file of evaluation images has its disk space before the first image is written."""

import os
from pathlib import Path

import pytest

from edgekit.pipeline.evaluation_images import reserve


def test_disk_space_is_reserved_where_the_system_has_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "pixels.npy"
    pixels = reserve(path, (3, 500, 500, 3))
    size = path.stat().st_size
    assert path.stat().st_blocks * 512 >= size, "the file has holes"
    pixels[:] = 7
    assert pixels.sum(dtype=int) == 7 * pixels.size
    assert path.stat().st_size == size
