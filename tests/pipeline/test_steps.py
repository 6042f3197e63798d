"""`edgekit quantize` and `edgekit compile` hold at most one graph in memory, and load none to recognise it."""

import gc
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.pipeline import builder
from edgekit.pipeline.request import GRAPH, SAMPLES, read_facts
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter
from tests.helpers.graph_folder import graph_folder


@dataclass(frozen=True)
class NamedInputs(Inputs):
    """Inputs of a graph, as far as the tests need them."""

    target: str


def has_graph(folder: Path, inputs: Any, labels: tuple[str, ...] = ()) -> bool:
    return builder._has_graph(folder, inputs, labels)


def test_an_earlier_graph_is_recognised_without_loading_it(tmp_path: Path) -> None:
    same, other = NamedInputs("onnx"), NamedInputs("tflite")
    folder, truncated, incomplete = (graph_folder(tmp_path / name, same.key) for name in "abc")
    (truncated / GRAPH).write_bytes(b"PK")
    (incomplete / SAMPLES).unlink()
    assert has_graph(folder, same)
    assert not has_graph(folder, other)
    assert not has_graph(truncated, same)
    assert not has_graph(incomplete, same)


def test_a_graph_gets_other_class_names_and_nothing_else(tmp_path: Path) -> None:
    inputs = NamedInputs("onnx")
    folder = graph_folder(tmp_path / "graph", inputs.key)
    before = read_facts(folder)
    assert has_graph(folder, inputs, ("cat", "dog"))
    assert read_facts(folder) == replace(before, labels=("cat", "dog"))
    assert not has_graph(folder, NamedInputs("tflite"), ("cat", "owl"))
    assert read_facts(folder).labels == ("cat", "dog")


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
    monkeypatch.setattr(builder, "load_graph", load)
    monkeypatch.setattr(builder, "compile_stage", compile_stage)
    builder.compile_graphs(tmp_path / "graphs", tmp_path / "out", Reporter(quiet=True))
    assert len(loaded) == 3
