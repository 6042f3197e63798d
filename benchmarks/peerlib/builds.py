"""Builds the candidates: edgekit's bundles, and the stock tools' files for the same network and images."""

import os
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import litert_quantizer
import litert_torch
import numpy as np
import onnx
import torch
from litert_quantizer import recipe as litert_recipe
from numpy.typing import NDArray
from torch import nn

from benchmarks.peerlib.candidates import ACCURATE, BF16, PERCENTILE, Candidate
from benchmarks.peerlib.converters import convert_mnn, convert_ncnn
from benchmarks.peerlib.executorch import convert_executorch
from benchmarks.peerlib.wheels import WHEELS
from edgekit.compat.openvino import openvino
from edgekit.compat.telemetry import hidden_telemetry
from edgekit.compiler.nncf_compat import nncf
from edgekit.config.runtimes import DeviceClass
from edgekit.runtime.bundle import Bundle
from edgekit.support.files import replacing

with hidden_telemetry():
    import onnxruntime.quantization as ort_quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

Images = list[NDArray[np.float32]]


def edgekit_candidates(built: Iterable[Bundle]) -> list[Candidate]:
    """One candidate for each bundle, and another for those that also compute in bf16 or f16."""
    candidates = []
    for bundle in built:
        target, precision = bundle.manifest.target, bundle.manifest.precision
        candidates.append(Candidate(f"edgekit {precision}", target, "edgekit", precision, bundle.path))
        if target == "openvino":
            mixed = BF16 if precision == "float" else f"int8+{BF16}"
            candidates.append(
                Candidate(f"edgekit {precision}, {BF16}", target, "edgekit", mixed, bundle.path, options={"hint": BF16})
            )
        elif target == "tflite" and precision == "float" and DeviceClass.load(bundle.manifest.device_class).has_f16:
            candidates.append(Candidate("edgekit float, f16", target, "edgekit", "f16", bundle.path))
    return candidates


class Stock:
    """Builds the stock tools' files in `folder`, unless they exist. `images` are for calibration, float32 [1,3,H,W]."""

    def __init__(self, module: nn.Module, images: Images, folder: Path) -> None:
        self.module, self.images, self.folder = module, images, folder
        self.example = (torch.from_numpy(images[0]),)
        folder.mkdir(parents=True, exist_ok=True)

    def candidates(
        self, runtimes: Container[str], names: Container[str] | None = None
    ) -> Iterator[tuple[Candidate, str | None]]:
        """Yield each candidate of those runtimes, with the reason if it couldn't be built.

        `names` are those of the candidates besides the plain floats, from which the others are made. By default they
        are those that benchmarks/peers.py compares with.
        """
        makes: list[tuple[str, str, str, str, Callable[[Path], None]]] = [
            ("openvino", "plain float", "float", "ov_float.xml", self._openvino_float),
            ("openvino", "nncf.quantize", "int8", "ov_nncf.xml", self._openvino_nncf),
            ("openvino", "nncf.quantize TRANSFORMER", "int8", "ov_nncf_transformer.xml", self._openvino_transformer),
            ("openvino", ACCURATE, "int8", "ov_nncf_accurate.xml", self._openvino_accurate),
            ("onnx", "plain float", "float", "float.onnx", self._onnx_float),
            ("onnx", "nncf.quantize", "int8", "nncf.onnx", self._onnx_nncf),
            ("onnx", "nncf.quantize TRANSFORMER", "int8", "nncf_transformer.onnx", self._onnx_transformer),
            ("onnx", "quantize_static", "int8", "static.onnx", self._onnx_static),
            ("onnx", PERCENTILE, "int8", "percentile.onnx", self._onnx_percentile),
            ("tflite", "plain float", "float", "float.tflite", self._tflite_float),
            ("tflite", "litert-quantizer static", "int8", "static.tflite", self._tflite_static),
            ("tflite", "litert-quantizer dynamic", "int8", "dynamic.tflite", self._tflite_dynamic),
            ("mnn", "plain float", "float", "float.mnn", self._mnn),
            ("ncnn", "plain float", "float", "float.ncnn.param", self._ncnn),
            ("executorch", "plain float", "float", "float.pte", self._executorch),
            ("executorch", "XNNPACKQuantizer", "int8", "int8.pte", self._executorch_int8),
        ]
        for runtime, name, precision, file, make in makes:
            wanted = name not in (ACCURATE, PERCENTILE) if names is None else precision == "float" or name in names
            if runtime not in runtimes or not wanted:
                continue
            path, why = self.folder / file, None
            if not path.exists():
                try:
                    with torch.no_grad():
                        make(path)
                except Exception as error:  # a peer may raise anything, which the table reports
                    why = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            yield Candidate(name, runtime, "stock", precision, path), why
            if runtime == "openvino" and why is None:
                mixed = BF16 if precision == "float" else f"int8+{BF16}"
                yield Candidate(f"{name}, {BF16}", runtime, "stock", mixed, path), None
            elif runtime in WHEELS and why is None:
                yield Candidate(f"{name}, f16", runtime, "stock", "f16", path), None

    def _openvino_float(self, path: Path) -> None:
        model = openvino.convert_model(self.module, example_input=self.example, input=list(self.example[0].shape))
        openvino.save_model(model, path, compress_to_fp16=False)

    def _nncf(self, model: object, transformer: bool, fast: bool = True) -> Any:
        kind = nncf.ModelType.TRANSFORMER if transformer else None
        data = nncf.Dataset([{"image": image} for image in self.images])
        count = len(self.images)
        return nncf.quantize(model, data, model_type=kind, subset_size=count, fast_bias_correction=fast)

    def _openvino_nncf(self, path: Path, transformer: bool = False, fast: bool = True) -> None:
        model = openvino.Core().read_model(self.folder / "ov_float.xml")
        model.inputs[0].get_tensor().set_names({"image"})
        openvino.save_model(self._nncf(model, transformer, fast), path, compress_to_fp16=False)

    def _openvino_accurate(self, path: Path) -> None:
        self._openvino_nncf(path, fast=False)

    def _openvino_transformer(self, path: Path) -> None:
        self._openvino_nncf(path, transformer=True)

    def _onnx_float(self, path: Path) -> None:
        program = torch.onnx.export(self.module, self.example, dynamo=True, input_names=["image"], verbose=False)
        assert program is not None
        with replacing(path) as beside:
            onnx.save(program.model_proto, beside)

    def _onnx_nncf(self, path: Path, transformer: bool = False) -> None:
        onnx.save(self._nncf(onnx.load(self.folder / "float.onnx"), transformer), path)

    def _onnx_transformer(self, path: Path) -> None:
        self._onnx_nncf(path, transformer=True)

    def _onnx_percentile(self, path: Path) -> None:
        self._onnx_static(path, ort_quantization.CalibrationMethod.Percentile)

    def _onnx_static(
        self, path: Path, method: ort_quantization.CalibrationMethod = ort_quantization.CalibrationMethod.MinMax
    ) -> None:
        reader = _Reader(self.images)
        prepared = self.folder / "float_prepared.onnx"
        quant_pre_process(self.folder / "float.onnx", prepared, skip_symbolic_shape=True)  # it fails on ReduceMean
        ort_quantization.quantize_static(
            prepared,
            path,
            reader,
            quant_format=ort_quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=ort_quantization.QuantType.QUInt8,
            weight_type=ort_quantization.QuantType.QInt8,
            calibrate_method=method,
        )

    def _tflite_float(self, path: Path) -> None:
        litert_torch.convert(self.module, self.example).export(str(path))

    def _tflite_static(self, path: Path) -> None:
        quantizer = litert_quantizer.Quantizer(str(self.folder / "float.tflite"))
        quantizer.load_quantization_recipe(litert_recipe.static_wi8_ai8())
        data = {"serving_default": [{"args_0": image} for image in self.images]}
        quantizer.quantize(quantizer.calibrate(data, num_threads=os.cpu_count() or 1)).export_model(str(path))

    def _tflite_dynamic(self, path: Path) -> None:
        quantizer = litert_quantizer.Quantizer(str(self.folder / "float.tflite"))
        quantizer.load_quantization_recipe(litert_recipe.dynamic_wi8_afp32())
        quantizer.quantize().export_model(str(path))

    def _mnn(self, path: Path) -> None:
        convert_mnn(self.module, self.example[0], path)

    def _ncnn(self, path: Path) -> None:
        convert_ncnn(self.module, self.example[0], path)

    def _executorch(self, path: Path, int8: bool = False) -> None:
        convert_executorch(self.module, self.images, path, int8)

    def _executorch_int8(self, path: Path) -> None:
        self._executorch(path, int8=True)


class _Reader(ort_quantization.CalibrationDataReader):  # type: ignore[misc]
    """Passes the images to quantize_static."""

    def __init__(self, images: Images) -> None:
        self._turn = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._turn, None)
        return None if image is None else {"image": image}
