"""OpenVINO on the CPU."""

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BundleError
from edgekit.runtime import engine
from edgekit.runtime.bundle import Manifest
from edgekit.runtime.engine import Infer, check_shapes, import_runtime, package_version, precision_option
from edgekit.support.probe import available_cores

PRECISIONS = ("f32", "bf16", "f16")
NATIVE = "native"
"""Value of the session option "inference_precision" for the format that OpenVINO would choose on this processor."""
GROUP = "dynamic_quantization_group_size"
"""Session option: values of a row that share a range in dynamic layers. In capitals, it is OpenVINO's property."""


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
        from edgekit.runtime.openvino.workarounds import split_reductions

        split_reductions(model)
    return core().compile_model(model, "CPU", config)


class Engine(engine.Engine):
    """One infer request, with OpenVINO's latency hint.

    The manifest's session option "inference_precision" is "f32" (default), "bf16", "f16" or "native". OpenVINO's own
    default is bf16 or f16 where the processor supports it, and the results would differ from those in f32. The other
    option is `GROUP`; without it, inputs of layers whose weights alone are INT8 are not quantized, as OpenVINO would.
    """

    package = "openvino"

    def open(self, model: Path, manifest: Manifest, threads: int | None) -> Infer:
        ov = import_runtime("openvino")
        self.version = package_version(ov, self.package, manifest)
        weights = _check_files(model, manifest)
        config = config_of(manifest.session)
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
            if threads < available_cores():  # sessions side by side would be pinned to the same cores
                config["ENABLE_CPU_PINNING"] = "NO"
        compiled = compile_for_cpu(core().read_model(str(model), str(weights)), config)
        inputs, outputs = (
            [[int(size) for size in port.partial_shape.to_shape()] for port in ports]
            for ports in (compiled.inputs, compiled.outputs)
        )
        check_shapes(manifest, inputs, outputs)
        request = compiled.create_infer_request()

        def infer(x: NDArray[Any]) -> NDArray[np.float32]:
            # A copy costs 0.03 ms at 224x224; sharing the caller's array would need it to be aligned and writable.
            np.copyto(request.get_input_tensor().data, x)
            request.infer()
            return np.array(request.get_output_tensor().data)

        return infer

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


def config_of(session: Mapping[str, Any]) -> dict[str, str | int]:
    """OpenVINO's properties for these session options. Raises BundleError for an unknown precision."""
    precision = precision_option(session, (*PRECISIONS, NATIVE))
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _native_precision() if precision == NATIVE else precision,
        GROUP.upper(): str(session.get(GROUP, 0)),
    }


def _native_precision() -> str:
    default = core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return default if default in PRECISIONS else "f32"
