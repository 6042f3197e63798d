"""OpenVINO on the CPU."""

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from threading import Lock
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

PRECISIONS = ("f32", "bf16", "f16")
NATIVE = "native"
"""Value of the session option "inference_precision" for the format that OpenVINO would choose on this processor."""


@cache
def core() -> Any:
    """Return the `openvino.Core` of the process.

    Each Core installs a signal stack on processors with AMX, and frees it in the end. If Cores end in the order in
    which they were made, a freed stack stays installed, and the next signal, such as Ctrl-C, crashes the process.
    """
    return import_runtime("openvino").Core()


def compile_for_cpu(model: Any, config: Mapping[str, str | int]) -> Any:
    """Compile an `openvino.Model` with static shapes."""
    if platform.machine() == "aarch64":  # the file may have been built for x86
        from edgekit.runtime.openvino.reductions import split_reductions

        split_reductions(model)
    return core().compile_model(model, "CPU", config)


class Engine:
    """One infer request, guarded by a lock, with OpenVINO's latency hint.

    The manifest's session option "inference_precision" is "f32" (default), "bf16", "f16" or "native". OpenVINO's own
    default is bf16 or f16 where the processor supports it, and the results would differ from those in f32.
    """

    package = "openvino"

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None:
        ov = import_runtime("openvino")
        self.version = package_version(ov, self.package, manifest)
        weights = _check_files(model, manifest)
        precision = precision_of(manifest.session)
        config: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        compiled = compile_for_cpu(core().read_model(str(model), str(weights)), config)
        if len(compiled.inputs) != 1 or len(compiled.outputs) != 1:
            raise BundleError(
                f"the model has {len(compiled.inputs)} inputs and {len(compiled.outputs)} outputs", valid="one of each"
            )
        inputs, outputs = (
            [int(size) for size in port.partial_shape.to_shape()] for port in (compiled.input(0), compiled.output(0))
        )
        check_shapes(manifest, inputs, outputs)
        self._nhwc = manifest.layout == "NHWC"
        self._lock = Lock()
        self._request: Any = compiled.create_infer_request()

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._nhwc:
            x = x.transpose(0, 2, 3, 1)
        with self._lock:
            request = self._request
            if request is None:
                raise closed()
            # A copy costs 0.03 ms at 224x224; sharing the caller's array would need it to be aligned and writable.
            np.copyto(request.get_input_tensor().data, x)
            request.infer()
            return np.array(request.get_output_tensor().data)

    def close(self) -> None:
        with self._lock:
            self._request = None

    def low_precision_float(self) -> str | None:
        native = _native_precision()
        return native if native != "f32" else None


def _check_files(model: Path, manifest: Manifest) -> Path:
    """Path of the weights. OpenVINO would find the file itself, but only the hashes of listed files were checked."""
    weights = model.with_suffix(".bin")
    if weights.name not in manifest.files:
        raise BundleError(f"key 'files' doesn't list '{weights.name}', the weights of '{model.name}'")
    with model.open("rb") as file:  # OpenVINO would read other formats under this suffix
        if not file.read(16).lstrip().startswith((b"<?xml", b"<net")):
            raise BundleError(f"'{model.name}' is not an OpenVINO IR")
    return weights


def precision_of(session: Mapping[str, Any]) -> str:
    """Number format for values in float with these session options. Raises BundleError for an unknown one."""
    precision = session.get("inference_precision", "f32")
    if precision == NATIVE:
        return _native_precision()
    if precision not in PRECISIONS:
        raise BundleError(f"key 'session.inference_precision' is {precision!r}", valid=", ".join((*PRECISIONS, NATIVE)))
    return str(precision)


def _native_precision() -> str:
    default = core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return default if default in PRECISIONS else "f32"
