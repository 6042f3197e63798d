"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtime.engine import (
    check_shapes,
    closed,
    import_runtime,
    package_version,
)
from edgekit.runtime.manifest import Manifest
from edgekit.runtime.onnx.onnx_file import external_files


class Engine:
    """An inference session, which several threads may run at once.

    The manifest's session option "disabled_optimizers" lists graph optimizers of ONNX Runtime to switch off.
    """

    package = "onnxruntime"

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None:
        ort = import_runtime("onnx")
        self.version = package_version(ort, self.package, manifest)
        if unlisted := external_files(model) - manifest.files.keys():
            raise BundleError(f"key 'files' doesn't list '{min(unlisted)}', which has tensors of '{model.name}'")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle threads would keep spinning for milliseconds, which heats the processor and takes a core from the app.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=_disabled(manifest)
        )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BundleError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs", valid="one of each")
        check_shapes(manifest, inputs[0].shape, outputs[0].shape)
        self._nhwc = manifest.layout == "NHWC"
        self._input, self._outputs = inputs[0].name, [outputs[0].name]
        self._session: Any = session

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        session = self._session
        if session is None:
            raise closed()
        if self._nhwc:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        logits: NDArray[np.float32] = session.run(self._outputs, {self._input: x})[0]
        return logits

    def close(self) -> None:
        self._session = None

    def low_precision_float(self) -> str | None:
        return None


def _disabled(manifest: Manifest) -> list[str]:
    names = manifest.session.get("disabled_optimizers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BundleError(f"key 'session.disabled_optimizers' is {names!r}", valid="a list of names")
    return names
