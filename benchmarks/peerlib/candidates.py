"""One model file, and how its runtime runs it. It needs no torch, because the timing process imports it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peerlib.executorch import open_executorch
from edgekit.config.runtimes import RUNTIMES
from edgekit.runtime.engine import import_runtime

ACCURATE, PERCENTILE = "nncf.quantize accurate bias correction", "quantize_static Percentile"
"""Stock candidates that differ from the others only in accuracy, which benchmarks/trained.py measures."""

BF16 = "bf16"

SUFFIXES = {name: (runtime.model_suffix, *runtime.companion_suffixes) for name, runtime in RUNTIMES.items()} | {
    "mnn": (".mnn",),
    "ncnn": (".ncnn.param", ".ncnn.bin"),
    "executorch": (".pte",),
}
"""Suffixes of the files that a runtime loads, the model's own first."""

Infer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Candidate:
    """One model file. `maker` is "edgekit", in which case `path` is a bundle, or "stock"."""

    name: str
    runtime: str
    maker: str
    precision: str
    """float | f16 | bf16 | int8 | int8+bf16, where OpenVINO may compute the float part in bf16. On Arm it is f16."""
    path: Path
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The model's files: neither the other files of a bundle nor files of other runtimes in the folder."""
        first, *companions = SUFFIXES[self.runtime]
        model = self.path / f"model{first}" if self.path.is_dir() else self.path
        stem = model.name.removesuffix(first)
        return [file for file in (model, *(model.with_name(stem + suffix) for suffix in companions)) if file.exists()]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def sha256(self) -> str:
        """Of the contents of all files."""
        found = hashlib.sha256()
        for file in self.files:
            found.update(file.read_bytes())
        return found.hexdigest()


def open_candidate(candidate: Candidate, threads: int) -> Infer:
    """Open the file; return a function from float32 images [1,3,H,W] to logits [1,classes]."""
    if candidate.maker == "edgekit" and not candidate.options:
        from edgekit.runtime import load

        return load(candidate.path, threads, low_precision=candidate.precision == "f16")
    if candidate.runtime == "executorch":
        return open_executorch(candidate.path, threads)
    openers = {"openvino": _openvino, "onnx": _onnx, "tflite": _tflite, "mnn": _mnn, "ncnn": _ncnn}
    return openers[candidate.runtime](candidate, threads)


def _openvino(candidate: Candidate, threads: int) -> Infer:
    from edgekit.compat.openvino import openvino

    path = candidate.path / "model.xml" if candidate.path.is_dir() else candidate.path
    mixed = candidate.precision.rpartition("+")[2]
    hint = mixed if mixed in ("bf16", "f16") else "f32"
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    request = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        np.copyto(request.get_input_tensor().data, x)
        request.infer()
        return np.array(request.get_output_tensor().data)

    return infer


def _onnx(candidate: Candidate, threads: int) -> Infer:
    onnxruntime = import_runtime("onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it takes a core of the next one
    session = onnxruntime.InferenceSession(str(candidate.path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(None, {name: x})[0]
        return logits

    return infer


def _tflite(candidate: Candidate, threads: int) -> Infer:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(candidate.path), num_threads=threads)
    interpreter.allocate_tensors()
    input_details, output_details = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        if input_details["dtype"] != np.float32:
            scale, zero_point = input_details["quantization"]
            limits = np.iinfo(input_details["dtype"])
            x = np.clip(np.rint(x / np.float32(scale)) + zero_point, limits.min, limits.max)
        np.copyto(interpreter.tensor(input_details["index"])(), x, casting="unsafe")
        interpreter.invoke()
        logits: NDArray[Any] = interpreter.get_tensor(output_details["index"])
        if logits.dtype == np.float32:
            return logits
        scale, zero_point = output_details["quantization"]
        return (logits.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)

    return infer


def _mnn(candidate: Candidate, threads: int) -> Infer:
    from MNN import expr, nn

    config = {"backend": "CPU", "numThread": threads, "precision": "low" if candidate.precision == "f16" else "high"}
    manager = nn.create_runtime_manager((config,))
    network = nn.load_module_from_file(str(candidate.path), ["image"], ["logits"], runtime_manager=manager)

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        image = expr.placeholder(list(x.shape), expr.NCHW, expr.float)
        image.write(x)
        (logits,) = network.forward([image])
        return np.array(logits.read(), np.float32)

    return infer


def _ncnn(candidate: Candidate, threads: int) -> Infer:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = threads
    half = candidate.precision == "f16"  # what ncnn does by default
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = half
    if network.load_param(str(candidate.path)) or network.load_model(str(candidate.path.with_suffix(".bin"))):
        raise ValueError(f"ncnn can't load '{candidate.path}'")

    def infer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with network.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(x[0]).clone())
            _, logits = extractor.extract("out0")
            return np.array(logits, np.float32)[None]

    return infer
