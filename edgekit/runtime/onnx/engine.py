"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtime import engine
from edgekit.runtime.engine import Infer, check_shapes, import_runtime, package_version
from edgekit.runtime.manifest import Manifest
from edgekit.runtime.onnx.onnx_graph import external_files


class Engine(engine.Engine):
    """An inference session.

    The manifest's session option "disabled_optimizers" lists graph optimizers of ONNX Runtime to switch off.
    """

    package = "onnxruntime"
    concurrent = True

    def open(self, model: Path, manifest: Manifest, threads: int | None) -> Infer:
        ort = import_runtime("onnx")
        self.version = package_version(ort, self.package, manifest)
        if unlisted := external_files(model) - manifest.files.keys():
            raise BundleError(f"key 'files' doesn't list '{min(unlisted)}', which has tensors of '{model.name}'")
        options = session_options(ort, threads or 0)
        # Idle threads would keep spinning for milliseconds, which heats the processor and takes a core from the app.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=_disabled(manifest)
        )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_shapes(manifest, [value.shape for value in inputs], [value.shape for value in outputs])
        image, logits = inputs[0].name, [outputs[0].name]

        def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = session.run(logits, {image: x})[0]
            return result

        return infer


def session_options(ort: Any, threads: int) -> Any:
    """Options of a session that optimizes its graph and prints nothing but errors."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _disabled(manifest: Manifest) -> list[str]:
    names = manifest.session.get("disabled_optimizers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BundleError(f"key 'session.disabled_optimizers' is {names!r}", valid="a list of names")
    return names
