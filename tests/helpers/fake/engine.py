"""The fake runtime's engine: torch runs the exported graph on the CPU."""

import importlib
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.engine import check_shapes, closed, import_runtime, package_version
from edgekit.runtime.manifest import Manifest
from edgekit.support.libraries import quiet


class Engine:
    """An exported program."""

    package = "torch"

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None:
        self._torch: Any = import_runtime("fake")
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers Q and DQ
        self.version = package_version(self._torch, self.package, manifest)
        inputs, outputs, graph = _load(model.read_bytes())
        check_shapes(manifest, inputs, outputs)
        self._nhwc = manifest.layout == "NHWC"
        self._graph: Any = graph

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        graph = self._graph
        if graph is None:
            raise closed()
        if self._nhwc:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        if not x.flags.writeable:  # torch warns of read-only arrays
            x = x.copy()
        with self._torch.no_grad():
            logits: NDArray[np.float32] = graph(self._torch.from_numpy(x)).numpy()
        return logits

    def close(self) -> None:
        self._graph = None

    def low_precision_float(self) -> str | None:
        return None


@lru_cache(maxsize=8)
def _load(content: bytes) -> tuple[Any, Any, Any]:
    """The shapes of the input and the output, and the graph. Loading takes a second, and a job opens a bundle often."""
    torch: Any = import_runtime("fake")
    with quiet():
        program = torch.export.load(BytesIO(content))
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    inputs, outputs = (values[names[0]].shape for names in (signature.user_inputs, signature.user_outputs))
    return inputs, outputs, program.module(check_guards=False)
