"""LiteRT on the CPU, from ai-edge-litert or from tflite-runtime."""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Lock
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgekit.config.device_classes import F16_FEATURE, cpu_features
from edgekit.errors import BundleError
from edgekit.runtime.engine import (
    check_shapes,
    closed,
    import_runtime,
    package_version,
)
from edgekit.runtime.manifest import Manifest

PRECISIONS = ("f32", "f16")
"""Values of the session option "inference_precision"."""


class TensorDetails(TypedDict):
    """Entries of LiteRT's tensor details that `quantize` and `dequantize` need."""

    dtype: type[np.integer[Any]]
    quantization: tuple[float, int]
    """Scale and zero point."""


F16, F16_OFFERED = b"reduced_precision_support", b"reduced_precision_offered"
"""Names of the metadata that makes XNNPACK compute float layers in f16, and of an offer to do so, of equal length."""


class Engine:
    """One interpreter, guarded by a lock. Input or output in int8 or uint8 is converted by its scale and zero point.

    The manifest's session option "inference_precision" is "f32" (default) or "f16". In f16 the model is loaded into
    memory, with the offer in it renamed.
    """

    def __init__(self, model: Path, manifest: Manifest, threads: int | None) -> None:
        module = import_runtime("tflite")
        self.package = "ai-edge-litert" if module.__name__.startswith("ai_edge_litert") else "tflite-runtime"
        self.version = package_version(module, self.package, manifest)
        self._model = model
        precision = manifest.session.get("inference_precision", "f32")
        if precision not in PRECISIONS:
            raise BundleError(f"key 'session.inference_precision' is {precision!r}", valid=", ".join(PRECISIONS))
        if precision == "f16":
            content = model.read_bytes().replace(F16_OFFERED, F16)
            interpreter = module.Interpreter(model_content=content, num_threads=threads)
        else:
            interpreter = module.Interpreter(model_path=str(model), num_threads=threads)
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BundleError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs", valid="one of each")
        self._input, self._output = inputs[0], outputs[0]
        check_shapes(manifest, self._input["shape"].tolist(), self._output["shape"].tolist())
        self._nhwc = manifest.layout == "NHWC"
        self._lock = Lock()
        self._interpreter: Any = interpreter

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._nhwc:
            x = x.transpose(0, 2, 3, 1)
        if self._input["dtype"] != np.float32:
            x = quantize(x, self._input)
        with self._lock:
            interpreter = self._interpreter
            if interpreter is None:
                raise closed()
            # Writing in place saves the contiguous copy of a transposed view that set_tensor would need.
            np.copyto(interpreter.tensor(self._input["index"])(), x)
            interpreter.invoke()
            logits: NDArray[Any] = interpreter.get_tensor(self._output["index"])
        return logits if logits.dtype == np.float32 else dequantize(logits, self._output)

    def close(self) -> None:
        with self._lock:
            self._interpreter = None

    def low_precision_float(self) -> str | None:
        with self._model.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return "f16" if content.find(F16_OFFERED) >= 0 and F16_FEATURE in cpu_features() else None


def quantize(x: NDArray[np.float32], details: TensorDetails) -> NDArray[Any]:
    """Convert real numbers to a tensor's integers by its scale and zero point."""
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    levels = np.clip(np.rint(x / np.float32(scale)) + zero_point, limits.min, limits.max)
    return np.asarray(levels, details["dtype"])


def dequantize(logits: NDArray[Any], details: TensorDetails) -> NDArray[np.float32]:
    """Convert a tensor's integers to real numbers by its scale and zero point."""
    scale, zero_point = details["quantization"]
    return (logits.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
