"""LiteRT on the CPU, from ai-edge-litert or from tflite-runtime."""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.config.runtimes import F16_FEATURE, cpu_features
from edgekit.errors import BundleError, MissingExtraError
from edgekit.runtime import engine
from edgekit.runtime.bundle import Manifest
from edgekit.runtime.engine import Infer, check_shapes, import_runtime, package_version, precision_option

PRECISIONS = ("f32", "f16")
"""Values of the session option "inference_precision"."""


F16, F16_OFFERED = b"reduced_precision_support", b"reduced_precision_offered"
"""Names of the metadata that makes XNNPACK compute float layers in f16, and of an offer to do so, of equal length."""


class Engine(engine.Engine):
    """One interpreter.

    The manifest's session option "inference_precision" is "f32" (default) or "f16". In f16 the model is loaded into
    memory, with the offer in it renamed.
    """

    def open(self, model: Path, manifest: Manifest, threads: int | None) -> Infer:
        module = import_runtime("tflite")
        self.package = "ai-edge-litert" if module.__name__.startswith("ai_edge_litert") else "tflite-runtime"
        self.version = package_version(module, self.package, manifest)
        if self.package == "tflite-runtime" and any(layer.get("kind") == "dynamic" for layer in manifest.layers):
            raise MissingExtraError(
                f"tflite-runtime {self.version} can't run layers whose ranges are taken at run time",
                fix="Install ai-edge-litert in its place",
            )
        self._model = model
        if precision_option(manifest.session, PRECISIONS) == "f16":
            content = model.read_bytes().replace(F16_OFFERED, F16)
            interpreter = module.Interpreter(model_content=content, num_threads=threads)
        else:
            interpreter = module.Interpreter(model_path=str(model), num_threads=threads)
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        check_shapes(manifest, [end["shape"].tolist() for end in inputs], [end["shape"].tolist() for end in outputs])
        for end, dtype in ((inputs[0], manifest.dtype), (outputs[0], "float32")):
            if end["dtype"] != np.dtype(dtype):
                raise BundleError(
                    f"tensor '{end['name']}' of the model has the type {np.dtype(end['dtype'])}",
                    valid=dtype,
                    fix="Make the bundle again with `edgekit deploy`",
                )
        image, logits = inputs[0]["index"], outputs[0]["index"]

        def infer(x: NDArray[Any]) -> NDArray[np.float32]:
            np.copyto(interpreter.tensor(image)(), x)
            interpreter.invoke()
            result: NDArray[np.float32] = interpreter.get_tensor(logits)
            return result

        return infer

    def low_precision_float(self) -> str | None:
        with self._model.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return "f16" if content.find(F16_OFFERED) >= 0 and F16_FEATURE in cpu_features() else None
