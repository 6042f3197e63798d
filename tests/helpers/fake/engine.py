"""The fake runtime's engine: torch runs the exported graph on the CPU."""

import importlib
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime import engine
from edgekit.runtime.bundle import Manifest
from edgekit.runtime.engine import Infer, check_shapes, import_runtime, package_version
from edgekit.support.libraries import quiet


class Engine(engine.Engine):
    """An exported program."""

    package = "torch"

    def open(self, model: Path, manifest: Manifest, threads: int | None) -> Infer:
        torch: Any = import_runtime("fake")
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers Q and DQ
        self.version = package_version(torch, self.package, manifest)
        inputs, outputs, graph = _load(model.read_bytes())
        check_shapes(manifest, [inputs], [outputs])

        def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
            if not x.flags.writeable:  # torch warns of read-only arrays
                x = x.copy()
            with torch.no_grad():
                logits: NDArray[np.float32] = graph(torch.from_numpy(x)).numpy()
            return logits

        return infer


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
