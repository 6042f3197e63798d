"""`edgekit quantize` and `edgekit compile` hold at most one graph in memory, and load none to recognise it."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.pipeline import steps
from edgekit.pipeline.graph_to_compile import GRAPH, SAMPLES
from edgekit.support.progress import Reporter
from tests.helpers.graph_folder import FINGERPRINT, graph_folder


def test_an_earlier_graph_is_recognised_without_loading_it(tmp_path: Path) -> None:
    folder, truncated, incomplete = (graph_folder(tmp_path / name) for name in "abc")
    (truncated / GRAPH).write_bytes(b"PK")
    (incomplete / SAMPLES).unlink()
    assert steps._has_graph(folder, FINGERPRINT)
    assert not steps._has_graph(folder, "of another")
    assert not steps._has_graph(truncated, FINGERPRINT)
    assert not steps._has_graph(incomplete, FINGERPRINT)


def test_only_one_graph_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        pass

    loaded: list[weakref.ref[Graph]] = []

    def load(folder: Path) -> Graph:
        gc.collect()
        assert all(earlier() is None for earlier in loaded)
        graph = Graph()
        loaded.append(weakref.ref(graph))
        return graph

    def compile_stage(graph: Any, place: Path) -> tuple[Any, None]:
        return SimpleNamespace(path=place), None

    for name in "abc":
        graph_folder(tmp_path / "graphs" / name)
    monkeypatch.setattr(steps, "load_graph", load)
    monkeypatch.setattr(steps, "compile_stage", compile_stage)
    steps.compile_graphs(tmp_path / "graphs", tmp_path / "out", Reporter(quiet=True))
    assert len(loaded) == 3
