"""A fourth runtime, as anyone would add one: this file, and one row in the table of targets.

It keeps the graph as torch exports it and runs it with torch. Nothing to convert, so it's also what tests of the
pipeline use.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.graph import add_constant, constant, example_input, refresh
from edgekit.config.runtimes import TARGETS, Target
from edgekit.runtime.backend import Artifact, compiler_errors
from edgekit.runtime.manifest import Manifest
from edgekit.runtime.profiling import Profile
from edgekit.support.libraries import quiet

ROW = replace(TARGETS["onnx"], name="fake", title="Fake", engine=__name__, backend=__name__, profiler=__name__)


class Backend:
    def compile(self, graph: GraphModule, folder: Path, metadata: str) -> Artifact:
        store_weights_as_int8(graph)
        program = torch.export.export(graph, (example_input(graph),))
        for node in program.graph.nodes:  # stack traces: more than the weights
            for key in node.meta.keys() - {"val"}:
                del node.meta[key]
        with compiler_errors("fake"):
            torch.export.save(program, folder / "model.pt2", extra_files={"edgekit": metadata})
        return Artifact("model.pt2", ("model.pt2",), "image", "logits", "torch", "2.0")


def store_weights_as_int8(graph: GraphModule) -> None:
    """Compute each Q of a constant now, and drop what nothing uses any more."""
    for node in list(graph.graph.nodes):
        if ".quantize_per_channel" in str(node.target) and (weight := constant(graph, node.args[0])) is not None:
            scale, zero = (constant(graph, argument) for argument in node.args[1:3])
            node.replace_all_uses_with(
                add_constant(graph, node, node.name, node.target(weight, scale, zero, *node.args[3:]))
            )
    refresh(graph)
    used = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in graph.state_dict().keys() - used:
        owner, _, leaf = name.rpartition(".")
        delattr(graph.get_submodule(owner), leaf)


class Engine:
    package, version = "torch", torch.__version__

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None:
        with quiet():
            self._graph: Any = torch.export.load(model).module(check_guards=False)

    @torch.no_grad()
    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._graph(torch.from_numpy(x)).numpy()
        return logits

    def close(self) -> None:
        self._graph = None

    @staticmethod
    def low_precision_float() -> str | None:
        return None


class Profiler:
    def profile(self, model: Path, options: Mapping[str, Any], threads: int, runs: int) -> Profile:
        return Profile("it never runs in integers", (), None)


@contextmanager
def added() -> Iterator[Target]:
    """The table of targets with this runtime's row."""
    outermost = ROW.name not in TARGETS
    TARGETS[ROW.name] = ROW
    try:
        yield ROW
    finally:
        if outermost:
            del TARGETS[ROW.name]


def embedded(model: Path) -> dict[str, Any]:
    """The metadata inside a model file."""
    files = {"edgekit": ""}
    with quiet():
        torch.export.load(model, extra_files=files)
    found: dict[str, Any] = json.loads(files["edgekit"])
    return found
